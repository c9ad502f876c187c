"""The file scheme: reads, atomic writes, full disks, and links and pipes that a team's code makes."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from rayplane.errors import Conflict, InvalidInput, NotFound
from rayplane.storage.file import FileStorage
from tests.support.other_user import run_as_another


def test_appended_bytes_are_at_the_end(tmp_path: Path) -> None:
    storage = FileStorage(f"file://{tmp_path}/root")
    for piece in (b"one\n", b"", b"two\n"):
        storage.append("growth/jobs/log", piece)
    assert storage.read("growth/jobs/log") == b"one\ntwo\n"
    assert storage.read_from("growth/jobs/log", 4, 2) == b"tw"
    assert storage.size("growth/jobs/log") == 8


def test_a_file_is_replaced_by_the_rest_of_a_stream(tmp_path: Path) -> None:
    storage = FileStorage(f"file://{tmp_path}/root")
    source = io.BytesIO(b"head" + b"x" * 3_000_000)
    source.seek(4)
    for _ in range(2):
        storage.write_from("growth/big", source)
        source.seek(4)
    assert storage.read("growth/big") == b"x" * 3_000_000
    assert os.listdir(tmp_path / "root/growth") == ["big"]


def test_an_offset_beyond_any_file_reads_nothing(tmp_path: Path) -> None:
    storage = FileStorage(f"file://{tmp_path}/root")
    storage.append("log", b"line\n")
    for offset in (5, 2**44, 2**60, 2**63, 2**80):
        assert storage.read_from("log", offset, 10) == b""


@pytest.mark.parametrize("name", ["a\0b", "x" * 300, "ü" * 150])
def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path, name: str) -> None:
    storage = FileStorage(f"file://{tmp_path}/root")
    storage.append("kept/log", b"")
    for act in (storage.exists, storage.read, storage.size, storage.delete, lambda path: storage.write(path, b"")):
        for path in (f"kept/{name}", f"{name}/log"):
            with pytest.raises(InvalidInput, match="No file can be called"):
                act(path)


FULL_DISK = """
import json, subprocess, sys
folder = sys.argv[1]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], check=True)
from rayplane.errors import StorageFull
from rayplane.storage.file import FileStorage
from tests.support.other_user import run_as_another
storage = FileStorage(f"file://{folder}")
storage.append("log", b"kept")
remedies = []
for verb in (storage.append, storage.write):
    try:
        verb("log", b"x" * 1_000_000)
    except StorageFull as error:
        remedies.append(error.remedy)
storage.append("log", b" and more")
print(json.dumps({"remedies": remedies, "log": storage.read("log").decode()[:100], "size": storage.size("log")}))
"""


def test_a_full_disk_is_an_error_and_leaves_the_file_unchanged(tmp_path: Path) -> None:
    # In its own mount namespace, so that no privilege is needed and the mount ends with the test.
    done = subprocess.run(
        ["unshare", "-rm", sys.executable, "-c", FULL_DISK, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert len(outcome["remedies"]) == 2
    assert "RAYPLANE_STORAGE_ROOT" in outcome["remedies"][0]
    assert (outcome["log"], outcome["size"]) == ("kept and more", 13)


def test_a_link_made_by_a_teams_code_is_not_followed(tmp_path: Path) -> None:
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
        lambda: storage.delete("a/mine/part"),
        lambda: storage.exists("a/mine"),
        lambda: storage.size("a/jobs/driver.log"),
        lambda: list(storage.list("a/mine")),
    ]
    for act in acts:
        with pytest.raises(InvalidInput, match="symbolic link"):
            act()
    storage.delete("a/mine")
    assert not storage.exists("a/mine")
    storage.delete("a")
    assert storage.read("b/datasets/gold/part") == b"another team's", "what goes is the link"


def test_a_link_that_replaces_a_folder_during_an_access_is_not_followed(tmp_path: Path) -> None:
    storage = FileStorage(f"file://{tmp_path}/root")
    storage.write("b/jobs/log", b"another team's")
    place = tmp_path / "root" / "a" / "jobs"
    ended = threading.Event()

    def swap() -> None:
        while not ended.is_set():
            shutil.rmtree(place, ignore_errors=True)
            with suppress(OSError):
                place.symlink_to("../b/jobs")
                place.unlink()

    with ThreadPoolExecutor(1) as pool:
        swapping = pool.submit(swap)
        read = b""
        for _ in range(3000):
            with suppress(InvalidInput, NotFound, OSError):
                storage.append("a/jobs/log", b"m")
                storage.write("a/jobs/other", b"m")
                read += storage.read("a/jobs/log")
        ended.set()
        swapping.result()
    assert set(read) <= set(b"m")
    assert list((tmp_path / "root" / "b" / "jobs").iterdir()) == [tmp_path / "root" / "b" / "jobs" / "log"]
    assert storage.read("b/jobs/log") == b"another team's"


def test_a_pipe_made_by_a_teams_code_does_not_block(tmp_path: Path) -> None:
    storage = FileStorage(f"file://{tmp_path}/root")
    storage.write("a/file", b"x")
    os.mkfifo(tmp_path / "root" / "a" / "pipe")
    acts: list[Callable[[], object]] = [
        lambda: storage.read("a/pipe"),
        lambda: storage.read_from("a/pipe", 0, 1),
        lambda: storage.append("a/pipe", b"x"),
    ]
    for act in acts:
        with pytest.raises(InvalidInput, match="is a pipe"):
            act()
    storage.write("a/pipe", b"y")
    assert storage.read("a/pipe") == b"y"


def test_a_missing_file_is_not_found_and_can_be_deleted(tmp_path: Path) -> None:
    storage = FileStorage(f"file://{tmp_path}/root")
    for _ in range(2):  # before and after the root exists
        for path in ("a", "a/b", "file/below"):
            assert not storage.exists(path)
            assert list(storage.list(path)) == []
            storage.delete(path)
            for read in (storage.read, storage.size, lambda path: storage.read_from(path, 0, 1)):
                with pytest.raises(NotFound, match=path):
                    read(path)
        storage.write("file", b"x")
        (tmp_path / "root" / "folder").mkdir(exist_ok=True)
    with pytest.raises(NotFound):
        storage.read("folder")
    assert list(storage.list("")) == ["file", "folder"]
    assert storage.exists("")


def test_a_root_that_is_a_link_itself_is_a_root(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "root").symlink_to("disk")
    storage = FileStorage(f"file://{tmp_path}/root")
    storage.write("a/file", b"x")
    assert storage.read("a/file") == b"x"
    with pytest.raises(InvalidInput, match="leaves the storage root"):
        storage.read("a/../../etc/passwd")


def test_a_folder_is_moved_with_its_content_and_its_old_path_is_free(tmp_path: Path) -> None:
    storage = FileStorage(f"file://{tmp_path}/root")
    storage.write("growth/jobs/1/driver.log", b"line\n")
    storage.move("growth", "_archive/growth~1")
    assert not storage.exists("growth")
    assert storage.read("_archive/growth~1/jobs/1/driver.log") == b"line\n"
    storage.write("growth/jobs/2/driver.log", b"")
    assert list(storage.list("growth/jobs")) == ["2"]


def test_a_move_to_an_existing_path_is_refused(tmp_path: Path) -> None:
    storage = FileStorage(f"file://{tmp_path}/root")
    storage.write("a/file", b"a")
    storage.write("b/file", b"b")
    (tmp_path / "root/empty").mkdir()
    (tmp_path / "root/link").symlink_to(tmp_path / "nowhere")
    for target in ("b", "b/file", "empty", "link"):
        with pytest.raises(Conflict, match=f"There is something at .*/{target}'"):
            storage.move("a", target)
    assert (storage.read("a/file"), storage.read("b/file")) == (b"a", b"b")


def test_moving_a_missing_path_is_an_error(tmp_path: Path) -> None:
    storage = FileStorage(f"file://{tmp_path}/root")
    for source in ("growth", "growth/deeper"):
        with pytest.raises(NotFound, match="growth"):
            storage.move(source, "_archive/growth~1")
    with pytest.raises(InvalidInput, match="leaves the storage root"):
        storage.move("../growth", "_archive/growth~1")


def test_a_link_in_the_place_of_a_folder_is_moved_and_not_followed(tmp_path: Path) -> None:
    storage = FileStorage(f"file://{tmp_path}/root")
    storage.write("other/file", b"other's")
    (tmp_path / "root/growth").symlink_to(tmp_path / "root/other")
    storage.move("growth", "_archive/growth~1")
    assert storage.read("other/file") == b"other's"
    assert (tmp_path / "root/_archive/growth~1").is_symlink()
    storage.delete("_archive/growth~1")
    assert storage.read("other/file") == b"other's"


def test_a_file_with_a_hard_link_elsewhere_is_not_opened(tmp_path: Path) -> None:
    storage = FileStorage(f"file://{tmp_path}/root")
    storage.write("growth/jobs/kept", b"")
    (tmp_path / "secret").write_text("secret")
    os.link(tmp_path / "secret", tmp_path / "root/growth/jobs/driver.log")
    for act in (storage.read, lambda path: storage.read_from(path, 0, 9), lambda path: storage.append(path, b"more")):
        with pytest.raises(InvalidInput, match="another name"):
            act("growth/jobs/driver.log")
    assert (tmp_path / "secret").read_text() == "secret"
    storage.write("growth/jobs/driver.log", b"new")  # replaces this name only; the other name keeps its file
    assert storage.read("growth/jobs/driver.log") == b"new"
    assert (tmp_path / "secret").read_text() == "secret"


def test_a_folder_in_a_files_place_is_an_error_and_stays(tmp_path: Path) -> None:
    storage = FileStorage(f"file://{tmp_path}/root")
    storage.write("job/record.json/inside", b"")
    with pytest.raises(InvalidInput, match="is a folder"):
        storage.write("job/record.json", b"{}")
    assert os.listdir(tmp_path / "root/job") == ["record.json"]


def test_a_root_that_can_be_traversed_but_not_listed_suffices_for_a_teams_own_folder() -> None:
    with tempfile.TemporaryDirectory(prefix="rp-test-", dir="/tmp") as name:
        root = Path(name)
        (root / "growth").mkdir()
        (root / "growth").chmod(0o777)
        root.chmod(0o311)

        def act() -> None:
            storage = FileStorage(f"file://{root}")
            storage.write("growth/datasets/one", b"1")
            storage.append("growth/datasets/one", b"2")
            assert storage.read("growth/datasets/one") == b"12"
            assert list(storage.list("growth/datasets")) == ["one"]
            assert storage.exists("growth/datasets")
            with pytest.raises(PermissionError):
                list(storage.list(""))
            storage.delete("growth/datasets")

        try:
            run_as_another(act)
        finally:
            root.chmod(0o700)
        assert os.listdir(root / "growth") == []


def test_files_made_in_a_folder_shared_with_a_group_are_readable_by_the_group(tmp_path: Path) -> None:
    storage = FileStorage(f"file://{tmp_path}/root")
    storage.write("growth/kept", b"")
    storage.write("other/kept", b"")
    (tmp_path / "root/growth").chmod(0o3770)
    before = os.umask(0o077)
    try:
        storage.write("growth/jobs/one/record.json", b"{}")
        storage.append("growth/jobs/one/driver.log", b"words")
        storage.write("other/jobs/one/record.json", b"{}")
    finally:
        os.umask(before)
    assert _modes(tmp_path / "root/growth/jobs") == {
        "": 0o3770,
        "one": 0o3770,
        "one/driver.log": 0o640,
        "one/record.json": 0o640,
    }
    assert _modes(tmp_path / "root/other/jobs") == {"": 0o700, "one": 0o700, "one/record.json": 0o600}


def test_a_folder_that_all_users_may_read_does_not_pass_on_its_mode(tmp_path: Path) -> None:
    storage = FileStorage(f"file://{tmp_path}/root")
    storage.write("growth/kept", b"")
    (tmp_path / "root/growth").chmod(0o2775)
    before = os.umask(0o022)
    try:
        storage.write("growth/jobs/record.json", b"{}")
    finally:
        os.umask(before)
    assert _modes(tmp_path / "root/growth/jobs") == {"": 0o2755, "record.json": 0o644}


def _modes(folder: Path) -> dict[str, int]:
    """The modes of a folder (under the empty name) and of all entries below it."""
    paths = [folder, *folder.rglob("*")]
    return {str(path.relative_to(folder)).removeprefix("."): path.stat().st_mode & 0o7777 for path in paths}
