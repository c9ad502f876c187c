"""Removing folders to which others may write."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rayplane import trees
from rayplane.errors import Unavailable
from rayplane.storage.file import FileStorage
from tests.support.other_user import NUMBER, run_as_another

root_alone = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to another user")


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder to which all users may write."""
    with tempfile.TemporaryDirectory(prefix="rp-test-", dir="/tmp") as name:
        Path(name).chmod(0o777)
        yield Path(name)


def nest(folder: Path, levels: int) -> None:
    """Nest folders, each with a file, deeper than a path can be long."""
    folder.mkdir()
    at = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=at))
        os.mkdir("below", dir_fd=at)
        below = os.open("below", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)


def test_a_tree_deeper_than_pythons_recursion_is_removed(tmp_path: Path) -> None:
    storage = FileStorage(f"file://{tmp_path}")
    nest(tmp_path / "deep", 3000)
    storage.delete("deep")
    assert list(tmp_path.iterdir()) == []


def test_folders_without_permissions_are_removed_by_their_owner(public: Path) -> None:
    def act() -> None:
        for name in ("one/two/three", "one/other"):
            (public / name).mkdir(parents=True)
            (public / name / "file").write_text("")
        for name, mode in (("one/two/three", 0o500), ("one/two", 0), ("one/other", 0o100), ("one", 0o500)):
            (public / name).chmod(mode)
        FileStorage(f"file://{public}").delete("one")
        assert not (public / "one").exists()

    run_as_another(act)


def test_a_folder_without_write_permission_is_moved(public: Path) -> None:
    def act() -> None:
        storage = FileStorage(f"file://{public}")
        storage.write("alpha/file", b"text")
        (public / "alpha").chmod(0o500)
        storage.move("alpha", "archive/alpha")
        assert storage.read("archive/alpha/file") == b"text"

    run_as_another(act)


@root_alone
def test_a_folder_that_can_not_be_removed_or_moved_is_an_error_with_a_remedy(public: Path) -> None:
    (public / "foreign" / "inside").mkdir(parents=True)
    public.chmod(0o755)

    def act() -> None:
        storage = FileStorage(f"file://{public}")
        with pytest.raises(Unavailable, match=r"foreign' can't be removed.*inside.*as root"):
            storage.delete("foreign")

    run_as_another(act)
    (public / "target").mkdir()
    (public / "target").chmod(0o777)

    def move() -> None:
        with pytest.raises(Unavailable, match="foreign' can't be moved"):
            FileStorage(f"file://{public}").move("foreign", "target/foreign")

    run_as_another(move)


def test_links_in_a_tree_are_removed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "file").write_text("")
    (tmp_path / "tree" / "sub").mkdir(parents=True)
    (tmp_path / "tree" / "link").symlink_to(tmp_path / "victim")
    (tmp_path / "tree" / "sub" / "link").symlink_to(tmp_path / "victim")
    trees.remove(tmp_path / "tree")
    assert [path.name for path in tmp_path.rglob("*")] == ["victim", "file"]


def test_a_link_in_the_place_of_a_tree_is_an_error_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    with pytest.raises(Unavailable, match="can't be removed"):
        trees.remove(tmp_path / "link")
    assert (tmp_path / "victim").exists()


def test_a_missing_tree_is_removed(tmp_path: Path) -> None:
    trees.remove(tmp_path / "missing")


def test_a_tree_that_two_processes_remove_at_once_is_removed(tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / "tree" / f"{number % 10}" / f"{number}" / "below").mkdir(parents=True)
    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(trees.remove, tmp_path / "tree") for _ in range(2)]:
            done.result()
    assert list(tmp_path.iterdir()) == []


@root_alone
def test_a_user_can_not_refill_a_tree_that_root_removes(public: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = public / "tree"
    tree.mkdir()
    os.chown(tree, NUMBER, NUMBER)
    (tree / "file").write_text("")
    unlink = os.unlink

    def refill() -> None:
        with pytest.raises(PermissionError):
            (tree / "again").write_text("")

    def unlink_and_refill(name: str, *, dir_fd: int) -> None:
        unlink(name, dir_fd=dir_fd)
        run_as_another(refill)

    monkeypatch.setattr(os, "unlink", unlink_and_refill)
    trees.remove(tree)
    monkeypatch.undo()
    assert not tree.exists()


def test_what_other_users_can_have_planted_is_not_ours(public: Path, tmp_path: Path) -> None:
    for folder in (public / "own", tmp_path / "private" / "one"):
        folder.mkdir(parents=True)
        assert trees.is_ours(folder)
    (tmp_path / "private").chmod(0o755)
    (public / "link").symlink_to(public / "own")
    (public / "file").write_text("")
    assert not any(trees.is_ours(public / name) for name in ("link", "file", "missing", "file/below"))
    if os.geteuid() == 0:
        for folder in (public / "own", tmp_path / "private" / "one"):
            os.chown(folder, NUMBER, NUMBER)
        assert (trees.is_ours(public / "own"), trees.is_ours(tmp_path / "private" / "one")) == (False, True)
