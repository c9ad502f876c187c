"""The home's folder and its lock: each obstacle is an error that says what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayplane.client.up import room
from rayplane.errors import InvalidInput, StorageFull, Timeout
from rayplane.settings import Home


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of 4 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "rayplane-test", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"mounting a small file system is not allowed here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_the_home_and_its_folders_are_created_private(tmp_path: Path) -> None:
    home = Home(tmp_path / "deep" / "home")
    room.prepare(home)
    assert home.path.stat().st_mode & 0o077 == 0
    assert home.logs.is_dir()
    assert home.secrets.stat().st_mode & 0o077 == 0
    room.prepare(home)


def test_a_home_that_existed_before_becomes_private(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.path.mkdir()
    home.path.chmod(0o755)
    room.prepare(home)
    assert home.path.stat().st_mode & 0o777 == 0o700


def test_a_disk_that_is_too_small_is_an_error_before_any_process_is_started(small_disk: Path) -> None:
    home = Home(small_disk / "home")
    with pytest.raises(StorageFull) as caught:
        room.prepare(home)
    assert "MiB are free" in caught.value.detail
    assert caught.value.remedy is not None
    assert "RAYPLANE_HOME" in caught.value.remedy
    assert caught.value.exit_code == 9


def test_a_full_disk_is_an_error_and_leaves_no_probe_file(small_disk: Path) -> None:
    home = Home(small_disk / "home")
    home.path.mkdir()
    (small_disk / "ballast").write_bytes(b"\0" * (4 * 2**20 - 300_000))
    with pytest.raises(StorageFull, match="has no room"):
        room.prepare(home)
    assert not list(home.path.glob(".room*"))


def test_a_home_below_a_file_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="can't be written") as caught:
        room.prepare(Home(tmp_path / "file" / "home"))
    assert caught.value.remedy is not None


def test_a_home_that_may_not_be_written_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    # In /proc even root can't create a folder; permission bits do not stop root.
    folder = Path("/proc/self") if os.geteuid() == 0 else tmp_path
    if folder == tmp_path:
        tmp_path.chmod(0o500)
    with pytest.raises(InvalidInput, match="can't be written"):
        room.prepare(Home(folder / "home"))


HOLDER = """
import fcntl, sys, time
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


def test_of_two_ups_at_once_the_second_waits_and_says_so(tmp_path: Path) -> None:
    home, messages = Home(tmp_path), list[str]()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "up.lock")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Timeout) as caught, room.locked(home, messages.append, timeout=0.5):
            raise AssertionError("the lock was held by two")
        assert "up.lock" in caught.value.detail
        assert len(messages) == 1
    finally:
        holder.kill()
        holder.wait()
        assert holder.stdout is not None
        holder.stdout.close()
    # The kernel releases the lock of a killed process.
    with room.locked(home, messages.append, timeout=0.5):
        pass
