"""Contract of every storage scheme, as one suite: subclass it in a test module and bring a ``storage`` fixture.

The fixture is an adapter on an empty root, as ``open_root`` makes it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from rayplane.errors import Conflict, NotFound
from rayplane.storage.root import Storage, relative

LARGE = 3_000_000
"""Bytes of a file that is copied in several parts."""


class StorageContract:
    """The obligations of ``storage.root.Storage``."""

    def test_a_written_file_is_read_whole_and_in_parts(self, storage: Storage) -> None:
        storage.write("growth/a/file", b"0123456789")
        assert storage.read("growth/a/file") == b"0123456789"
        assert storage.read_from("growth/a/file", 3, 4) == b"3456"
        assert storage.read_from("growth/a/file", 8, 100) == b"89"
        assert storage.read_from("growth/a/file", 10, 5) == b""
        assert storage.read_from("growth/a/file", 2**60, 5) == b""
        assert storage.size("growth/a/file") == 10

    def test_a_file_is_replaced(self, storage: Storage) -> None:
        storage.write("growth/file", b"a long first text")
        storage.write("growth/file", b"short")
        assert storage.read("growth/file") == b"short"

    def test_a_file_is_written_from_the_rest_of_a_stream(self, storage: Storage) -> None:
        source = io.BytesIO(b"head" + b"x" * LARGE)
        source.seek(4)
        storage.write_from("growth/large", source)
        assert storage.size("growth/large") == LARGE
        assert storage.read_from("growth/large", LARGE - 2, 10) == b"xx"

    def test_a_stream_that_breaks_off_leaves_the_file_as_it_was(self, storage: Storage) -> None:
        storage.write("growth/file", b"before")

        class Broken(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                if self.tell():
                    raise OSError("the sender is gone")
                return super().read(4)

        with pytest.raises(OSError, match="the sender is gone"):
            storage.write_from("growth/file", Broken(b"half a file"))
        assert storage.read("growth/file") == b"before"
        assert list(storage.list("growth")) == ["file"]

    def test_appended_bytes_are_at_the_end(self, storage: Storage) -> None:
        for piece in (b"one\n", b"", b"two\n"):
            storage.append("growth/jobs/log", piece)
        assert storage.read("growth/jobs/log") == b"one\ntwo\n"

    def test_a_reader_gets_all_of_a_file_or_of_the_one_before(self, storage: Storage) -> None:
        texts = [letter * LARGE for letter in (b"a", b"b")]
        storage.write("growth/file", texts[0])
        with _writing(storage, texts) as write:
            read = [storage.read("growth/file") for _ in range(20)]
            write()
        assert {bytes(text[:1]) for text in read} <= {b"a", b"b"}
        assert all(text in texts for text in read)

    @pytest.mark.parametrize("path", ["growth/nothing", "nothing/at/all"])
    def test_a_missing_file_is_not_found(self, storage: Storage, path: str) -> None:
        storage.write("growth/file", b"1")
        assert not storage.exists(path)
        for act in (storage.read, storage.size):
            with pytest.raises(NotFound):
                act(path)
        with pytest.raises(NotFound):
            storage.read_from(path, 0, 1)

    def test_a_folder_exists_and_lists_the_names_directly_inside_sorted(self, storage: Storage) -> None:
        for path in ("growth/b", "growth/a/1", "growth/a/2", "growth/c/d/e"):
            storage.write(path, b"")
        assert storage.exists("growth")
        assert storage.exists("growth/a")
        assert list(storage.list("growth")) == ["a", "b", "c"]
        assert list(storage.list("growth/a")) == ["1", "2"]
        assert list(storage.list("growth/nothing")) == []

    def test_a_file_and_a_folder_are_deleted_and_what_is_missing_is_no_error(self, storage: Storage) -> None:
        for path in ("growth/file", "growth/a/1", "growth/a/b/2", "other/file"):
            storage.write(path, b"1")
        for path in ("growth/file", "growth/a", "growth/nothing", "nothing/at/all"):
            storage.delete(path)
        assert list(storage.list("growth")) == []
        assert storage.read("other/file") == b"1"

    def test_a_folder_is_moved_with_its_content(self, storage: Storage) -> None:
        storage.write("growth/a/1", b"one")
        storage.move("growth", "_archive/growth~1")
        assert storage.read("_archive/growth~1/a/1") == b"one"
        assert not storage.exists("growth")

    def test_a_move_from_nothing_or_onto_something_changes_nothing(self, storage: Storage) -> None:
        storage.write("a/1", b"one")
        storage.write("b/1", b"two")
        with pytest.raises(NotFound):
            storage.move("nothing", "c")
        with pytest.raises(Conflict):
            storage.move("a", "b")
        assert (storage.read("a/1"), storage.read("b/1")) == (b"one", b"two")

    def test_a_uri_is_below_the_root(self, storage: Storage) -> None:
        assert storage.uri("growth/file") == f"{storage.root}/growth/file"
        assert relative(storage.root, storage.uri("growth/file")) == "growth/file"

    def test_a_local_path_if_there_is_one_has_the_file(self, storage: Storage) -> None:
        storage.write("growth/file", b"1")
        local = storage.local_path("growth/file")
        if local is not None:
            assert Path(local).read_bytes() == b"1"


@contextmanager
def _writing(storage: Storage, texts: list[bytes]) -> Iterator[Callable[[], object]]:
    """Write the texts in turn in a thread, while the caller reads; yields a function that waits for the writer."""
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(_write_each, storage, texts * 10)
        yield done.result


def _write_each(storage: Storage, texts: list[bytes]) -> None:
    for text in texts:
        storage.write("growth/file", text)
