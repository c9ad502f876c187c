"""The command line without a platform: output and exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rayplane import errors, plugins
from rayplane.client.cli import main as cli
from rayplane.client.cli import output
from rayplane.client.cli.apply import load
from rayplane.client.cli.job import git_commit
from rayplane.client.up import control
from rayplane.client.up.view import PlatformView
from rayplane.nouns import JOB
from rayplane.nouns.base import Metadata, Object
from rayplane.settings import GatewaySettings, write_secret
from tests.unit.client.command import run


def test_every_command_of_the_table_is_there() -> None:
    for target, line in cli.COMMANDS.values():
        assert plugins.resolve(target) is not None
        assert line.endswith(".")


def test_help_imports_neither_the_http_stack_nor_the_gateway() -> None:
    code = (
        "import sys\n"
        "from rayplane.client.cli.main import main\n"
        "sys.argv = ['rayplane', '--help']\n"
        "try:\n    main()\nexcept SystemExit: pass\n"
        "heavy = {'httpx', 'pydantic', 'fastapi', 'ray', 'mlflow', 'sqlalchemy', 'yaml'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "quickstart" in done.stdout
    # Generous: the benchmarks measure the time, this only catches an added import.
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("command", [name for name in cli.COMMANDS if name != "gateway"])
def test_every_command_has_help(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert "Usage" in out


def test_an_unknown_command_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "clutser", "list")
    assert code == 2
    assert "clutser" in err


def test_without_a_platform_every_command_says_to_start_one(
    capsys: pytest.CaptureFixture[str], tmp_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAYPLANE_URL", raising=False)
    write_secret(tmp_home / "token", "t")
    code, out, err = run(capsys, "job", "list", "--team", "growth")
    assert (code, out) == (8, "")
    assert "rayplane up" in err


def test_a_gateway_that_is_down_is_unavailable(
    capsys: pytest.CaptureFixture[str], tmp_home: Path, monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    monkeypatch.setenv("RAYPLANE_URL", f"http://127.0.0.1:{free_port}")
    write_secret(tmp_home / "token", "t")
    code, _, err = run(capsys, "cluster", "list", "--team", "growth", "-o", "json")
    assert code == 8
    problem = json.loads(err)
    assert problem["type"] == "urn:rayplane:problem:unavailable"
    assert problem["remedy"] == "Run 'rayplane up'."


def test_a_token_that_others_may_read_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYPLANE_URL", "http://127.0.0.1:9")
    (tmp_home / "token").write_text("t")
    (tmp_home / "token").chmod(0o644)
    code, _, err = run(capsys, "cluster", "list", "--team", "growth")
    assert code == 2
    assert "chmod 600" in err


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["job", "list", "-o", "json"], True),
        (["-o", "json", "job", "list"], True),
        (["job", "list", "--output=json"], True),
        (["job", "list", "-ojson"], True),
        (["job", "list"], False),
        (["job", "submit", "--", "x", "-o", "json"], False),
    ],
)
def test_json_is_asked_for_anywhere_before_the_entrypoint(argv: list[str], expected: bool) -> None:
    assert output.wants_json(argv) is expected


def test_tables_are_aligned_and_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_table(["NAME", "ENTRYPOINT"], [["a", "x" * 300], ["longer-name", "-"]])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "NAME         ENTRYPOINT"
    assert lines[1].endswith("x" * 300)
    assert lines[2] == "longer-name  -"


def test_a_list_shows_the_columns_of_its_noun(capsys: pytest.CaptureFixture[str]) -> None:
    job = Object(
        kind="Job", metadata=Metadata(name="a", team="growth"), spec={"cluster": "dev"}, status={"phase": "Running"}
    )
    output.print_objects(JOB, [job], output.Format.TABLE)
    heading, line = capsys.readouterr().out.splitlines()
    assert heading.split() == ["NAME", "PHASE", "CLUSTER", "NODES", "RUN", "ENTRYPOINT", "AGE"]
    assert line.split() == ["a", "Running", "dev", "-", "-", "-", "-"]


@pytest.mark.parametrize(("value", "text"), [(5, "5s"), (119, "119s"), (300, "5m"), (10800, "3h"), (345600, "4d")])
def test_durations_are_short(value: float, text: str) -> None:
    assert output.seconds(value) == text


def test_a_pair_without_a_key_is_refused() -> None:
    with pytest.raises(errors.InvalidInput, match=r"--env '=x' is not KEY=VALUE"):
        output.pairs(["=x"], "--env")


def test_documents_are_read_with_the_folder_of_their_file(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("kind: Team\nmetadata: {name: growth}\n---\n---\nkind: Cluster\nmetadata: {name: dev}\nspec: {}\n")
    documents = load(str(path))
    assert [(document.kind, base) for document, base in documents] == [("Team", tmp_path), ("Cluster", tmp_path)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: Team\nmetdata: {name: a}\n", "Did you mean 'metadata'"),
        ("kind: [\n", "not YAML"),
        ("", "no document"),
        ("- 1\n", "a.yaml"),
        ("kind: Team\nmetadata: {name: Growth}\n", "not a name"),
        ("kind: Team\nmetadata: {name: a, labels: {since: 2013-02-30}}\n", "a.yaml: not YAML: day is out of range"),
        ("kind: Team\nspec: {a: " + "1" * 5000 + "}\n", "a.yaml: not YAML"),
        ("kind: " + "[" * 5000, "a.yaml: not YAML: it is nested too deeply"),
        ("kind: Team\nspec: {a: !!bool x}\n", "a.yaml: not YAML"),
        ("kind: Team\nspec: {a: !!timestamp x}\n", "a.yaml: not YAML"),
        ("kind: Team\nspec: &a [*a]\n", "holds itself"),
    ],
)
def test_a_wrong_document_is_refused_by_file_and_field(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(errors.InvalidSpec, match=message):
        load(str(path))


def test_a_missing_file_is_refused() -> None:
    with pytest.raises(errors.InvalidInput, match="No such file"):
        load("/does/not/exist.yaml")


def _piped(*argv: str, code: str = "from rayplane.client.cli.main import main; main()") -> tuple[int, str]:
    """Run a command whose output pipe is closed before it writes; return its exit code and errors."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", code, *argv], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    return done.returncode, done.stderr


@pytest.mark.parametrize("flush", ["True", "False"])
def test_a_reader_that_closes_the_pipe_is_no_error(flush: str) -> None:
    code = (
        "from rayplane.client.cli import main, why\n"
        f"why.parts = lambda target: print('x', flush={flush}) or exit(0)\n"
        "main.main()\n"
    )
    assert _piped("why", "a", code=code) == (0, "")


def test_an_interrupted_command_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from rayplane.client.cli import why

    def interrupted(_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(why, "parts", interrupted)
    assert run(capsys, "why", "a") == (130, "", "Interrupted.\n")


def test_following_a_log_fails_at_once_if_no_gateway_runs(
    capsys: pytest.CaptureFixture[str], tmp_home: Path, monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    monkeypatch.setenv("RAYPLANE_URL", f"http://127.0.0.1:{free_port}")
    write_secret(tmp_home / "token", "t")
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it waits for a gateway that has never answered"))
    code, _, err = run(capsys, "job", "logs", "-f", "train", "--team", "growth")
    assert (code, "can't be reached" in err) == (8, True)


@pytest.mark.parametrize(
    ("status", "expected"), [("echo", "c0ffee"), ("echo M a.py", "c0ffee-dirty"), ("exit 1", "c0ffee-dirty")]
)
def test_a_commit_is_clean_only_where_git_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str, expected: str
) -> None:
    script = tmp_path / "git"
    script.write_text(f'#!/bin/sh\ncase "$3" in rev-parse) echo c0ffee ;; *) {status} ;; esac\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert git_commit(tmp_path) == expected


def test_up_in_the_foreground_as_json_keeps_the_logs_out_of_the_answer(
    capsys: pytest.CaptureFixture[str], tmp_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = PlatformView(state="up", home=str(tmp_home), token_path="token")

    def up(settings: GatewaySettings, **_: object) -> PlatformView:
        settings.home_paths.logs.mkdir(exist_ok=True)
        (settings.home_paths.logs / "gateway.log").write_text("listening\n")
        return view

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(control, "up", up)
    monkeypatch.setattr(control, "stay", interrupted)
    before = signal.getsignal(signal.SIGTERM)
    try:
        code, out, err = run(capsys, "up", "--foreground", "-o", "json")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (code, json.loads(out)) == (0, view.model_dump(mode="json"))
    assert "gateway: listening" in err
