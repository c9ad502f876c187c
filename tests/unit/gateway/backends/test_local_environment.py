"""Installed distributions are known, show changes at once, and are not read again while they are unchanged."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from rayplane.gateway.backends import local_environment
from rayplane.nouns.environment import Environment


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The folders that were read, in order."""
    folders: list[str] = []
    distributions = metadata.distributions

    def noting(path: list[str]) -> object:
        folders.extend(path)
        return distributions(path=path)

    monkeypatch.setattr(metadata, "distributions", noting)
    local_environment._installed.cache_clear()
    yield folders
    local_environment._installed.cache_clear()


def install(folder: Path, name: str, version: str) -> None:
    made = folder / f"{name}-{version}.dist-info"
    made.mkdir(parents=True)
    (made / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def environment(*folders: Path) -> Environment:
    return local_environment.of_this_interpreter([str(folder) for folder in folders])


def test_the_environment_is_that_of_this_interpreter() -> None:
    here = local_environment.of_this_interpreter()
    assert here.interpreter == "local"
    assert here.ray == metadata.version("ray")
    assert here.rayplane == metadata.version("rayplane")
    assert here.python == f"{sys.version_info.major}.{sys.version_info.minor}"


def test_a_later_installation_is_noticed(tmp_path: Path) -> None:
    install(tmp_path, "ray", "2.60.0")
    before = environment(tmp_path)
    time.sleep(0.02)  # longer than the resolution of the file system's timestamps
    install(tmp_path, "numpy", "2.0")
    after = environment(tmp_path)
    assert (before.ray, after.ray) == ("2.60.0", "2.60.0")
    assert before.lock_hash != after.lock_hash


def test_the_first_distribution_of_a_name_on_the_path_counts(tmp_path: Path) -> None:
    install(tmp_path / "a", "Ray", "2.60.0")
    install(tmp_path / "b", "ray", "2.9.0")
    assert environment(tmp_path / "a", tmp_path / "b").ray == "2.60.0"
    assert environment(tmp_path / "b", tmp_path / "a").ray == "2.9.0"
    assert environment(tmp_path / "c").ray == "none"


def test_a_changed_folder_does_not_cause_another_to_be_read_again(tmp_path: Path, read: list[str]) -> None:
    packages, work = tmp_path / "packages", tmp_path / "work"
    install(packages, "ray", "2.60.0")
    work.mkdir()
    first = environment(work, packages)
    for number in range(3):
        time.sleep(0.02)
        (work / f"{number}.json").touch()
        assert environment(work, packages) == first
    assert read.count(str(packages)) == 1
