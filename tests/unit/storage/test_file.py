"""Files of a folder: what is written is there, and a write that found no room left nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rayplane.errors import InvalidInput
from rayplane.storage.file import FileStorage


def test_what_is_appended_is_at_the_end(tmp_path: Path) -> None:
    storage = FileStorage(f"file://{tmp_path}/root")
    for piece in (b"one\n", b"", b"two\n"):
        storage.append("growth/jobs/log", piece)
    assert storage.read("growth/jobs/log") == b"one\ntwo\n"
    assert storage.read_from("growth/jobs/log", 4, 2) == b"tw"
    assert storage.size("growth/jobs/log") == 8


FULL_DISK = """
import json, subprocess, sys
folder = sys.argv[1]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], check=True)
from rayplane.errors import StorageFull
from rayplane.storage.file import FileStorage
storage = FileStorage(f"file://{folder}")
storage.append("log", b"kept")
told = []
for verb in (storage.append, storage.write):
    try:
        verb("log", b"x" * 1_000_000)
    except StorageFull as error:
        told.append(error.remedy)
storage.append("log", b" and more")
print(json.dumps({"told": told, "log": storage.read("log").decode()[:100], "size": storage.size("log")}))
"""


def test_a_full_disk_is_told_and_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    # A mount namespace of its own, so that no privilege is needed and no mount outlives the test.
    done = subprocess.run(
        ["unshare", "-rm", sys.executable, "-c", FULL_DISK, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found["told"]) == 2
    assert "RAYPLANE_STORAGE_ROOT" in found["told"][0]
    assert (found["log"], found["size"]) == ("kept and more", 13)


def test_a_link_that_a_teams_code_made_leads_nowhere(tmp_path: Path) -> None:
    storage = FileStorage(f"file://{tmp_path}/root")
    storage.write("b/datasets/gold/part", b"another team's")
    (tmp_path / "root/a/jobs").mkdir(parents=True)
    (tmp_path / "root/a/jobs/driver.log").symlink_to("../../b/datasets/gold/part")
    (tmp_path / "root/a/mine").symlink_to("../b/datasets/gold")
    acts: list[Callable[[], object]] = [
        lambda: storage.read("a/jobs/driver.log"),
        lambda: storage.read("a/mine/part"),
        lambda: storage.append("a/jobs/driver.log", b"more"),
        lambda: storage.write("a/mine/part", b"other"),
        lambda: storage.delete("a/mine"),
        lambda: list(storage.list("a/mine")),
    ]
    for act in acts:
        with pytest.raises(InvalidInput, match="symbolic link"):
            act()
    assert storage.read("b/datasets/gold/part") == b"another team's"
    storage.delete("a")
    assert storage.read("b/datasets/gold/part") == b"another team's", "what goes is the link"


def test_a_root_that_is_a_link_itself_is_a_root(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "root").symlink_to("disk")
    storage = FileStorage(f"file://{tmp_path}/root")
    storage.write("a/file", b"x")
    assert storage.read("a/file") == b"x"
    with pytest.raises(InvalidInput, match="leaves the storage root"):
        storage.read("a/../../etc/passwd")
