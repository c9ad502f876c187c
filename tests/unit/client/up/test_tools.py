"""Places in which binaries are searched."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayplane.client.up import tools


def make(path: Path) -> Path:
    path.parent.mkdir(parents=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@pytest.fixture(autouse=True)
def _empty_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setenv("RAYPLANE_CACHE", str(tmp_path / "cache"))


def test_the_binary_of_an_unpacked_package_is_found_and_not_its_init_script(tmp_path: Path) -> None:
    unpacked = tmp_path / "cache" / "tools" / "prometheus"
    make(unpacked / "etc" / "init.d" / "prometheus")
    binary = make(unpacked / "usr" / "bin" / "prometheus")
    assert tools.find("prometheus") == binary


def test_path_comes_before_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "cache" / "tools" / "x" / "usr" / "bin" / "prometheus")
    installed = make(tmp_path / "bin" / "prometheus")
    monkeypatch.setenv("PATH", str(installed.parent))
    assert tools.find("prometheus") == installed


def test_without_a_cache_nothing_is_found() -> None:
    assert tools.find("prometheus") is None
