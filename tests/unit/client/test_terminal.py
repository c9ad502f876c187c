"""Text from other users in commands' output: terminal control characters never reach the terminal."""

from __future__ import annotations

import ast
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import rayplane.client.cli
from rayplane import errors
from rayplane.client import sdk
from rayplane.client.cli import output
from rayplane.client.cli.output import Format
from rayplane.client.up.logs import printed
from rayplane.nouns import JOB
from rayplane.nouns.base import Metadata, Object
from rayplane.nouns.why import Cause, Explanation
from tests.unit.client.command import run

TITLE = "\x1b]0;gone\x07"
TURNED = "a\u202egpj.exe"
CODE = Path(rayplane.client.cli.__file__).parent


def job(**spec: object) -> Object:
    return Object(kind="Job", metadata=Metadata(name="train", team="growth"), spec=dict(spec))


def test_a_table_escapes_terminal_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_objects(JOB, [job(entrypoint=f"echo {TITLE}\n{TURNED}"), job(entrypoint="true")], Format.TABLE)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert r"echo \x1b]0;gone\x07\na\u202egpj.exe" in lines[1]
    assert lines[1].index("echo") == lines[2].index("true") == lines[0].index("ENTRYPOINT")


def test_messages_and_errors_escape_terminal_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    output.say(f"made {TITLE}")
    output.note(f"note {TURNED}\nsecond line")

    def refused() -> None:
        raise errors.InvalidInput(f"No {TITLE}.", remedy=f"Not {TURNED}.")

    assert output.run(refused, []) == 2
    printed = capsys.readouterr()
    assert printed.out == "made \\x1b]0;gone\\x07\n"
    assert printed.err == ("note a\\u202egpj.exe\nsecond line\nError: No \\x1b]0;gone\\x07.\n  Not a\\u202egpj.exe.\n")


def test_an_explanation_escapes_terminal_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    cause = Cause(code="x", sentence=TITLE, remedy=TITLE, certainty="certain", evidence=[])
    output.print_explanation(
        Explanation(kind="Job", team="growth", name="train", phase="Failed", sentence=TITLE, causes=[cause]),
        Format.TABLE,
    )
    assert "\x1b" not in capsys.readouterr().out


def test_an_object_printed_as_yaml_parses_to_the_same_object(capsys: pytest.CaptureFixture[str]) -> None:
    for entrypoint in ("echo grüße", TITLE, TURNED, "a\u2028b\x85c\x7f", "two\nlines"):
        output.print_object(job(entrypoint=entrypoint), Format.TABLE)
        out = capsys.readouterr().out
        assert not set(out) & set("\x1b\x07\x7f\x85\u202e\u2028")
        assert yaml.safe_load(out)["spec"]["entrypoint"] == entrypoint


def test_json_escapes_terminal_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_object(job(entrypoint=TITLE + TURNED + "\x7f"), Format.JSON)
    out = capsys.readouterr().out
    assert out.replace("\n", "").isprintable()
    assert out.isascii()
    assert json.loads(out)["spec"]["entrypoint"] == TITLE + TURNED + "\x7f"


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch, tmp_home: Path) -> str:
    """A job's log that arrives in two pieces."""

    def logs(self: sdk.Jobs, team: str, name: str, follow: bool = True) -> Iterator[str]:
        del self, team, name, follow
        yield "\x1b[36m(pid=7)\x1b[0"
        yield f"m 1%\r2%\n{TITLE}\x1b[2J{TURNED}\n"

    monkeypatch.setattr(sdk.Jobs, "logs", logs)
    return f"\x1b[36m(pid=7)\x1b[0m 1%\r2%\n{TITLE}\x1b[2J{TURNED}\n"


def test_a_log_has_terminal_control_characters_only_with_raw(capsys: pytest.CaptureFixture[str], log: str) -> None:
    _, out, _ = run(capsys, "job", "logs", "train", "--team", "growth")
    assert out == "(pid=7) 1%\n2%\n\\x1b]0;gone\\x07\\x1b[2Ja\\u202egpj.exe\n"
    assert run(capsys, "job", "logs", "train", "--team", "growth", "--raw")[1] == log
    _, out, _ = run(capsys, "job", "logs", "train", "--team", "growth", "-o", "json")
    assert out.isascii()
    assert json.loads(out)["log"] == log


def test_the_help_explains_raw(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "job", "logs", "--help")
    assert "--raw" in out
    assert "a terminal obeys" in " ".join(out.replace("│", " ").split())


def test_logs_of_the_platforms_processes_are_shown_line_by_line(tmp_path: Path) -> None:
    file, shown = tmp_path / "gateway.log", io.StringIO()
    file.touch()
    with printed([file], to=shown, every=0.01):
        file.write_text(f"{TITLE}\n")
    assert shown.getvalue() == "gateway: \\x1b]0;gone\\x07\n"


@pytest.mark.parametrize("path", sorted(CODE.glob("*.py")), ids=lambda path: path.stem)
def test_commands_print_only_through_the_output_module(path: Path) -> None:
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    names = {ast.unparse(function) for function in calls}
    if path.stem != "output":
        assert not names & {"print", "typer.echo", "typer.secho", "sys.stdout.write", "sys.stderr.write"}
