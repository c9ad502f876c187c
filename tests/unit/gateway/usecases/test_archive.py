"""Malicious and damaged zips: each is refused with the reason, and little of it is held in memory."""

from __future__ import annotations

import io
import stat
import struct
import tracemalloc
import zipfile
import zlib

import pytest

from rayplane.errors import InvalidData, TooLarge
from rayplane.gateway.usecases import archive

METHODS = {"stored": zipfile.ZIP_STORED, "deflated": zipfile.ZIP_DEFLATED}


def entry(name: str, mode: int = 0) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo("x")
    made.filename = name  # not through the constructor, which would cut it at a NUL
    made.external_attr = mode << 16
    return made


def packed(*files: tuple[zipfile.ZipInfo | str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as made:
        for name, data in files:
            info = entry(name) if isinstance(name, str) else name
            info.compress_type = method
            made.writestr(info, data)
    return buffer.getvalue()


def check(data: bytes) -> None:
    archive.check(io.BytesIO(data))


def directory(data: bytes) -> int:
    """Offset of the central directory."""
    return data.index(b"PK\x01\x02")


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_folder_of_code_is_accepted(method: int) -> None:
    check(packed(("jobs/train.py", b"print(1)\n" * 1000), ("./a.txt", b""), ("empty/", b""), method=method))


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_file_whose_content_is_broken_is_refused(method: int) -> None:
    with pytest.raises(InvalidData, match=r"is not a zip that can be read|is damaged"):
        check(broken(method))


def broken(method: int) -> bytes:
    data = bytearray(packed(("train.py", b"print(1)\n" * 1000), method=method))
    begin = data.index(b"train.py") + len("train.py")
    data[begin : begin + 12] = b"\xff" * 12
    return bytes(data)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA], ids=["bzip2", "lzma"])
def test_compression_methods_other_than_deflate_are_refused_intact_or_broken(method: int) -> None:
    for data in (packed(("train.py", b"print(1)\n"), method=method), broken(method)):
        with pytest.raises(InvalidData, match=r"train\.py' is compressed by \w+, which is not accepted"):
            check(data)


def test_a_disk_error_is_not_reported_as_a_bad_package() -> None:
    class Failing(io.BytesIO):
        reads = 0

        def read(self, size: int | None = -1) -> bytes:
            self.reads += 1
            if self.reads > 3:  # earlier, zipfile would take a file whose end can't be read for no zip
                raise OSError(5, "Input/output error")
            return super().read(size)

    with pytest.raises(OSError, match="Input/output error"):
        archive.check(Failing(packed(("train.py", b"x"))))


def test_a_small_zip_that_declares_two_gib_is_refused_without_unpacking_it() -> None:
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -15)
    zeros = bytes(2**24)
    body = b"".join(squeezer.compress(zeros) for _ in range(128)) + squeezer.flush()
    data = packed(("zeros", b""))
    assert len(body) < 3 * 2**20
    name, at = b"zeros", directory(data)
    sizes = struct.pack("<LL", len(body), 2**31)
    local = bytearray(data[: 30 + len(name)] + body)
    local[8:10] = struct.pack("<H", zipfile.ZIP_DEFLATED)
    local[18:26] = sizes
    contents = bytearray(data[at:])
    contents[10:12] = struct.pack("<H", zipfile.ZIP_DEFLATED)
    contents[20:28] = sizes
    end = contents.index(b"PK\x05\x06")
    contents[end + 16 : end + 20] = struct.pack("<L", len(local))
    with pytest.raises(TooLarge, match="more than 1024 MiB"):
        check(bytes(local + contents))


def lying(real: bytes, declared: bytes, method: int) -> bytes:
    """A zip whose only file has the size and checksum of ``declared``, but the content of ``real``."""
    data = bytearray(packed(("train.py", real), method=method))
    crc = struct.pack("<L", zlib.crc32(declared))
    for at, checksum, size in ((0, 14, 22), (directory(bytes(data)), 16, 24)):
        data[at + checksum : at + checksum + 4] = crc
        data[at + size : at + size + 4] = struct.pack("<L", len(declared))
    return bytes(data)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_file_larger_than_its_declared_size_is_refused(method: int) -> None:
    with pytest.raises(InvalidData, match=r"train\.py' is damaged"):
        check(lying(bytes(2**20), b"\0", method))


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_file_smaller_than_its_declared_size_is_refused(method: int) -> None:
    with pytest.raises(InvalidData, match=r"train\.py' is damaged"):
        check(lying(b"\0", bytes(2**10), method))


def test_the_unpacked_size_is_counted_over_all_files(monkeypatch: pytest.MonkeyPatch) -> None:
    data = packed(*((f"part{number}", bytes(1000)) for number in range(4)), method=zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(archive, "MAX_UNPACKED", 4000)
    check(data)
    monkeypatch.setattr(archive, "MAX_UNPACKED", 3999)
    with pytest.raises(TooLarge):
        check(data)


def test_a_file_that_unpacks_to_a_thousand_times_its_size_is_never_in_memory() -> None:
    data = packed(("zeros", bytes(2**26)), method=zipfile.ZIP_DEFLATED)
    tracemalloc.start()
    try:
        check(data)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_a_package_of_too_many_files_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = packed(*((f"f{number}", b"") for number in range(5)))
    monkeypatch.setattr(archive, "MAX_FILES", 4)
    with pytest.raises(TooLarge, match="more than 4 files"):
        check(data)
    monkeypatch.setattr(archive, "MAX_CONTENTS", 100)
    with pytest.raises(TooLarge, match="table of contents"):
        check(data)


@pytest.mark.parametrize(
    "name",
    ["../evil.py", "/etc/passwd", "a/../../b", "a\\..\\..\\b", "\\\\host\\share", "C:\\x", "c:/x", "a/..", ".."],
)
def test_a_name_that_leads_out_of_the_folder_is_refused(name: str) -> None:
    with pytest.raises(InvalidData, match="leaves its folder"):
        check(packed((name, b"x")))


@pytest.mark.parametrize("name", ["a\0.py", "a\x1b[2J.py", "a\u202egpj.exe", "a\n.py"])
def test_a_name_with_control_or_bidirectional_characters_is_refused_and_not_repeated(name: str) -> None:
    with pytest.raises(InvalidData, match=r"holds U\+") as refused:
        check(packed((name, b"x")))
    assert str(refused.value).isprintable()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("names", [("a.py", "a.py"), ("a/b", "a//./b"), ("a/b", "a\\b"), ("a", "a/b"), ("a/", "a")])
def test_two_files_with_the_same_path_are_refused(names: tuple[str, str]) -> None:
    with pytest.raises(InvalidData, match="two files called 'a"):
        check(packed(*((name, b"") for name in names)))


def test_a_file_without_a_name_is_refused() -> None:
    for data in (packed((".", b"")), packed(("./.", b"")), unnamed()):
        with pytest.raises(InvalidData, match="file without a name"):
            check(data)


def unnamed() -> bytes:
    """A zip that has a file with an empty name."""
    data = bytearray(packed(("x", b"")))
    at = directory(bytes(data))
    data[at + 28 : at + 30] = b"\0\0"
    del data[at + 46]
    end = data.index(b"PK\x05\x06")
    data[end + 12 : end + 16] = struct.pack("<L", 46)
    return bytes(data)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_and_devices_are_refused(kind: int) -> None:
    what = "a link" if kind == stat.S_IFLNK else "neither a file nor a folder"
    with pytest.raises(InvalidData, match=f"'link' is {what}"):
        check(packed((entry("link", kind | 0o777), b"/etc/passwd")))
    check(packed((entry("train.py", stat.S_IFREG | 0o644), b""), (entry("jobs/", stat.S_IFDIR | 0o755), b"")))


def test_an_encrypted_file_is_refused() -> None:
    data = bytearray(packed(("train.py", b"x")))
    for at in (6, directory(bytes(data)) + 8):
        data[at] |= 1
    with pytest.raises(InvalidData, match="is encrypted"):
        check(bytes(data))


@pytest.mark.parametrize("cut", range(0, 120, 7))
def test_a_truncated_zip_is_refused(cut: int) -> None:
    data = packed(("train.py", b"print(1)\n" * 20), method=zipfile.ZIP_DEFLATED)
    with pytest.raises(InvalidData):
        check(data[: len(data) - 1 - cut])
