"""Families of plug-ins: entry points of other distributions, read as late as possible, and errors that name them."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from rayplane import plugins
from rayplane.errors import Unsupported
from rayplane.storage.file import FileStorage
from tests.support.distributions import install

MEMORY = {"rayplane.storage": {"memory": "json:JSONDecoder"}}


def test_a_third_partys_entry_point_is_loaded_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path, "acme", MEMORY)
    assert plugins.load("storage", "memory").__name__ == "JSONDecoder"
    assert plugins.names("storage") == ["file", "memory"]


def test_a_distribution_off_the_import_path_adds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        install(patch, tmp_path, "acme", MEMORY)
        assert plugins.names("storage") == ["file", "memory"]
    assert plugins.names("storage") == ["file"]


@pytest.mark.parametrize(("name", "remedy"), [("memry", "Did you mean 'memory'?"), ("s3", "Known: file, memory.")])
def test_an_unknown_name_is_refused_with_the_nearest_known_one_or_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, remedy: str
) -> None:
    install(monkeypatch, tmp_path, "acme", MEMORY)
    with pytest.raises(Unsupported) as refused:
        plugins.load("storage", name)
    assert (refused.value.detail, refused.value.remedy) == (f"'{name}' is not in storage.", remedy)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("acme_storage_that_is_missing:Storage", "ModuleNotFoundError"),
        ("json:Storage", "AttributeError"),
        ("acme_broken:Storage", "ZeroDivisionError"),
    ],
)
def test_a_plugin_that_can_not_be_imported_is_refused_naming_its_distribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, reason: str
) -> None:
    (tmp_path / "acme_broken.py").write_text("1 / 0\n")
    install(monkeypatch, tmp_path, "acme", {"rayplane.storage": {"memory": code}}, version="3.1")
    with pytest.raises(Unsupported, match=rf"distribution 'acme' 3.1 names '{code}'.*{reason}") as refused:
        plugins.load("storage", "memory")
    assert refused.value.__cause__ is not None


def test_a_name_that_two_distributions_bring_is_refused_naming_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tmp_path / "a", "acme", MEMORY)
    install(monkeypatch, tmp_path / "b", "bolt", MEMORY, version="2.0")
    with pytest.raises(Unsupported, match=r"more than once: from distribution 'acme' 1\.0 and from .*'bolt' 2\.0"):
        plugins.load("storage", "memory")


def test_the_same_distribution_twice_on_the_import_path_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("a", "b"):
        install(monkeypatch, tmp_path / folder, "acme", MEMORY)
    assert plugins.load("storage", "memory").__name__ == "JSONDecoder"


def test_a_name_of_the_platforms_own_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path, "acme", {"rayplane.storage": {"file": "json:JSONDecoder"}})
    assert plugins.load("storage", "file") is FileStorage


def test_a_policy_of_the_name_of_the_platforms_own_is_refused_since_both_would_act(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tmp_path, "acme", {"rayplane.policies": {"env": "json:JSONDecoder"}})
    with pytest.raises(Unsupported, match="from rayplane itself and from distribution 'acme'"):
        plugins.load("policies", "env")


def test_the_platforms_own_plugins_are_loaded_without_reading_metadata() -> None:
    plugins._scanned.cache_clear()
    for family in plugins.TABLE.keys() - plugins.ENFORCED:
        for name in plugins.TABLE[family]:
            plugins.load(family, name)
    assert plugins._scanned.cache_info().misses == 0


def test_metadata_is_read_once_for_a_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path, "acme", MEMORY)
    asked: list[str] = []
    real = importlib.metadata.entry_points

    def entry_points(*, group: str) -> object:
        asked.append(group)
        return real(group=group)

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    for _ in range(3):
        plugins.load("storage", "memory")
    assert asked == ["rayplane.storage"]


def test_the_command_line_starts_without_reading_metadata() -> None:
    code = (
        "import sys\n"
        "import rayplane.client.cli.main\n"
        "assert not {'importlib.metadata', 'pydantic', 'rayplane.nouns.base'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-S", "-c", f"import sys; sys.path += {sys.path!r}\n{code}"], check=True)
