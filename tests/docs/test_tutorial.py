"""The tutorial works as written: the test writes its files, runs its commands and compares their output."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"
_BLOCK = re.compile(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass
class Block:
    """A fenced block: a file to write, or commands with the output that each must print."""

    language: str
    file: str | None
    text: str

    def commands(self) -> list[tuple[str, str]]:
        pairs: list[tuple[str, str]] = []
        for line in self.text.splitlines():
            if line.startswith("$ "):
                pairs.append((line[2:], ""))
            else:
                command, expected = pairs[-1]
                pairs[-1] = (command, expected + line + "\n")
        return pairs


def blocks() -> list[Block]:
    return [Block(*match) for match in _BLOCK.findall(TUTORIAL.read_text())]


def matches(expected: str, printed: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in expected.strip().split("..."))
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    home = tmp_path / "shop"
    home.mkdir()
    return home


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_tutorial_does_what_it_says(folder: Path) -> None:
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    env.pop("RAYPLANE_HOME", None)
    try:
        for block in blocks():
            if block.file:
                path = folder / block.file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block.text)
                continue
            assert block.language in {"console", "python", "yaml"}
            for command, expected in block.commands():
                done = subprocess.run(
                    ["bash", "-c", command],
                    cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240,
                    check=False,
                )  # fmt: skip
                printed = done.stdout
                assert done.returncode == 0, f"$ {command}\n{printed}"
                assert matches(expected, printed), f"$ {command}\nexpected:\n{expected}\nprinted:\n{printed}"
    finally:
        subprocess.run(["rayplane", "down"], cwd=folder, env=env, capture_output=True, timeout=120, check=True)


def test_the_matcher_refuses_other_output() -> None:
    assert matches("...50...\n", "a table\nwith 50 rows\n")
    assert not matches("...50...\n", "a table\nwith 60 rows\n")
    assert not matches("exit code 2\n", "exit code 3\n")
