"""The upgrade page works as written: the test runs its commands on a home of the first version of rayplane."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rayplane.gateway.store import Store
from rayplane.gateway.store.migrate import revision_of
from tests.support import first_schema

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "upgrade.md"
VERSIONS = Path(first_schema.upgrade_within.__code__.co_filename).parent / "migrations" / "versions"
INSTALLS = "pip install "
"""Beginning of the commands that the test skips: they would install the version under test."""


def blocks() -> list[list[str]]:
    """The commands of each console block."""
    texts = re.findall(r"^```console\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return [[line.removeprefix("$ ") for line in block.splitlines()] for block in texts]


def revision(database: Path) -> str | None:
    store = Store(f"sqlite:///{database}")
    try:
        with store._engine.connect() as connection:
            return revision_of(connection)
    finally:
        store.close()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_page_leads_from_the_first_schema_to_the_newest_and_back_to_its_backup(tmp_path: Path) -> None:
    home = tmp_path / "shop" / ".rayplane"
    database = home / "gateway.db"
    first_schema.make(f"sqlite:///{database}")
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAYPLANE_")}
    env |= {k: v for k, v in os.environ.items() if k in ("RAYPLANE_TEST_SESSION", "RAYPLANE_CACHE")}
    env["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    def run(command: str) -> None:
        done = subprocess.run(
            ["bash", "-c", command], cwd=home.parent, env=env, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, f"$ {command}\n{done.stdout}{done.stderr}"

    def check() -> None:
        assert revision(database) == newest()
        store = Store(f"sqlite:///{database}")
        first_schema.check_asked(store)
        store.close()

    upgrade, back = blocks()
    try:
        for command in upgrade:
            if not command.startswith(INSTALLS):
                run(command)
            if command.startswith("rayplane backup"):
                assert revision(database) == first_schema.FIRST, "a backup changes nothing"
        check()
        for command in back:
            if not command.startswith(INSTALLS):
                run(command)
        check()
        assert (home.parent / "upgraded" / "gateway.db").is_file()
    finally:
        subprocess.run(["rayplane", "down"], cwd=home.parent, env=env, capture_output=True, timeout=120, check=True)


def newest() -> str:
    """The newest revision, according to the migrations' files."""
    return max(re.findall(r"^r(\d{4})_", path.name)[0] for path in VERSIONS.glob("r0*.py"))


def test_the_page_says_what_every_revision_changes() -> None:
    listed = re.findall(r"^\| (\d{4}) \|", PAGE.read_text(), re.MULTILINE)
    made = sorted(re.findall(r"^r(\d{4})_", path.name)[0] for path in VERSIONS.glob("r0*.py"))
    assert listed == made
