"""Preconditions of RAYPLANE_LOCAL_USERS on the host and the home, and errors where they are not met."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rayplane import local_users
from rayplane.errors import InvalidInput
from rayplane.settings import GatewaySettings, write_secret


@pytest.fixture
def as_root(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """Pretend that this process is root's and that users can run Python; yield the options of those runs."""
    asked: list[dict[str, Any]] = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        asked.append({"command": command, **options})
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(local_users, "_barrier", lambda path: "")
    monkeypatch.setattr(subprocess, "run", run)
    umask = os.umask(0o022)
    yield asked
    os.umask(umask)


def settings(home: Path, **more: Any) -> GatewaySettings:
    return GatewaySettings(home=home, local_users=True, **more)


def test_only_root_may_use_local_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(InvalidInput, match="this process is user 1000 on linux") as refusal:
        local_users.require(settings(tmp_path))
    assert "as root" in (refusal.value.remedy or "")
    local_users.require(GatewaySettings(home=tmp_path))
    assert local_users.prepare(GatewaySettings(home=tmp_path / "other")) == []
    assert not (tmp_path / "other").exists()


def test_local_users_need_linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_root: object) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(InvalidInput, match="on darwin"):
        local_users.require(settings(tmp_path))


def test_a_kernel_that_lets_users_link_to_others_files_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_root: object
) -> None:
    switch = tmp_path / "protected_hardlinks"
    monkeypatch.setattr(local_users, "PROTECTED_LINKS", switch)
    switch.write_text("1\n")
    local_users.require(settings(tmp_path))
    switch.write_text("0\n")
    with pytest.raises(InvalidInput, match="hard links") as refusal:
        local_users.require(settings(tmp_path))
    assert "sysctl fs.protected_hardlinks=1" in (refusal.value.remedy or "")


@pytest.mark.parametrize("ids", [(0, 100), (999, 2000), (2000, 1999), (61184, 2**31)])
def test_an_invalid_range_of_user_ids_is_refused(tmp_path: Path, as_root: object, ids: tuple[int, int]) -> None:
    local_users.require(settings(tmp_path, local_user_ids=(2000, 2000)))
    with pytest.raises(InvalidInput, match="RAYPLANE_LOCAL_USER_IDS"):
        local_users.require(settings(tmp_path, local_user_ids=ids))


def test_a_home_is_closed_to_teams_except_for_the_way_to_the_storage_root(
    tmp_path: Path, as_root: list[dict[str, Any]]
) -> None:
    home = tmp_path / "home"
    for folder in (
        "storage/alpha/datasets",
        "storage/mlflow",
        "storage/beta.0123",
        "storage/_archive/old",
        "mlflow",
        "secrets",
    ):
        (home / folder).mkdir(parents=True)
        (home / folder).chmod(0o755)
    for name in ("gateway.db", "mlflow/mlflow.db"):
        (home / name).write_text("")
        (home / name).chmod(0o644)
    write_secret(home / "token", "secret")
    (home / "link").symlink_to("/etc")
    assert local_users.prepare(settings(home)) == ["alpha"]
    assert local_users.prepare(settings(home)) == ["alpha"]
    modes = {name: (home / name).stat().st_mode & 0o7777 for name in ("", "storage", "storage/alpha", "storage/mlflow")}
    assert modes == {"": 0o711, "storage": 0o711, "storage/alpha": 0o700, "storage/mlflow": 0o700}
    shut = ("mlflow", "secrets", "gateway.db", "token", "storage/beta.0123")
    assert [name for name in shut if (home / name).stat().st_mode & 0o077] == []
    assert Path("/etc").stat().st_mode & 0o005 == 0o005
    assert os.umask(0o077) == 0o077
    assert {(run["user"], run["group"], tuple(run["extra_groups"])) for run in as_root} == {
        (1_879_048_192, 1_879_048_192, ())
    }


def test_a_number_that_no_process_can_have_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_root: object
) -> None:
    def run(command: list[str], **options: Any) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(InvalidInput, match="can be user 1879048192") as refusal:
        local_users.prepare(settings(tmp_path))
    assert "uid_map" in (refusal.value.remedy or "")


def test_with_a_storage_root_beside_the_home_all_of_the_home_is_closed(tmp_path: Path, as_root: object) -> None:
    home, root = tmp_path / "home", tmp_path / "root"
    local_users.prepare(settings(home, storage_root=f"file://{root}"))
    assert [path.stat().st_mode & 0o777 for path in (home, root)] == [0o700, 0o711]


def test_a_folder_that_bars_the_way_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_root: list[dict[str, Any]]
) -> None:
    monkeypatch.undo()
    folder = tmp_path / "barred" / "open"
    folder.mkdir(parents=True)
    folder.parent.chmod(0o700)
    (tmp_path / "link").symlink_to(folder / "inside")
    for path in (folder / "inside", tmp_path / "link"):
        first = next(part for part in reversed(path.resolve().parents) if not part.stat().st_mode & 0o001)
        assert local_users._barrier(str(path)) == str(first)
    assert local_users._barrier("/etc/passwd") == ""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, "", ""))
    with pytest.raises(InvalidInput, match="can't get past") as refusal:
        local_users.prepare(settings(folder / "home"))
    assert "RAYPLANE_HOME" in (refusal.value.remedy or "")


def test_an_interpreter_that_users_can_not_run_is_an_error_that_quotes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_root: object
) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "Traceback\nPermissionError: 'ray'\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(InvalidInput, match="PermissionError: 'ray'"):
        local_users.prepare(settings(tmp_path))
