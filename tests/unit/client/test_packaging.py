"""A folder's package: equal content, equal address; only code goes in."""

from __future__ import annotations

import errno
import io
import os
import zipfile
from pathlib import Path

import pytest

from rayplane.client import packaging
from rayplane.client.sdk import Client
from rayplane.errors import InvalidInput


def _tree(base: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return base


def _names(data: bytes) -> list[str]:
    return zipfile.ZipFile(io.BytesIO(data)).namelist()


def test_equal_content_has_an_equal_address_whatever_its_times_and_place(tmp_path: Path) -> None:
    files = {"jobs/train.py": "print(1)\n", "jobs/__init__.py": "", "a.txt": "x"}
    first = _tree(tmp_path / "first", files)
    second = _tree(tmp_path / "second", dict(reversed(files.items())))
    os.utime(second / "a.txt", (1, 1))
    assert packaging.pack(first) == packaging.pack(second)


def test_one_changed_byte_changes_the_address(tmp_path: Path) -> None:
    base = _tree(tmp_path, {"a.py": "1"})
    before, _ = packaging.pack(base)
    (base / "a.py").write_text("2")
    assert packaging.pack(base)[0] != before


def test_the_address_is_the_sha256_of_the_zip_and_the_zip_holds_the_files(tmp_path: Path) -> None:
    import hashlib

    address, data = packaging.pack(_tree(tmp_path, {"b/c.py": "text", "a.py": ""}))
    assert address == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert packaging.is_address(address)
    assert _names(data) == ["a.py", "b/c.py"]
    assert zipfile.ZipFile(io.BytesIO(data)).read("b/c.py") == b"text"


def test_caches_and_repositories_stay_out(tmp_path: Path) -> None:
    base = _tree(
        tmp_path,
        {
            "keep.py": "",
            ".git/HEAD": "",
            ".venv/bin/python": "",
            ".rayplane/token": "secret",
            "pkg/__pycache__/x.pyc": "",
            "pkg/mod.py": "",
            ".mypy_cache/x": "",
            "old.pyc": "",
        },
    )
    assert _names(packaging.pack(base)[1]) == ["keep.py", "pkg/mod.py"]


def test_rayignore_leaves_out_names_and_paths(tmp_path: Path) -> None:
    base = _tree(
        tmp_path,
        {".rayignore": "# big\n/data\n*.csv\n", "data/x.bin": "", "pkg/data/y.py": "", "pkg/t.csv": "", "a.py": ""},
    )
    assert _names(packaging.pack(base)[1]) == [".rayignore", "a.py", "pkg/data/y.py"]


def test_a_pattern_that_takes_back_another_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="take back"):
        packaging.pack(_tree(tmp_path, {".rayignore": "!a.py", "a.py": ""}))


def test_an_executable_file_stays_executable(tmp_path: Path) -> None:
    base = _tree(tmp_path, {"run.sh": "#!/bin/sh\n"})
    (base / "run.sh").chmod(0o755)
    info = zipfile.ZipFile(io.BytesIO(packaging.pack(base)[1])).getinfo("run.sh")
    assert info.external_attr >> 16 == 0o755


def test_a_dangling_link_is_left_out(tmp_path: Path) -> None:
    base = _tree(tmp_path, {"a.py": ""})
    (base / ".#a.py").symlink_to("nowhere")
    assert _names(packaging.pack(base)[1]) == ["a.py"]


def test_secrets_stay_out_wherever_they_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = _tree(
        tmp_path / "work",
        {"a.py": "", "my.token": "t", "state/secrets/signing.key": "k", "state/gateway.db": "", ".env.local": "P=1"},
    )
    (base / "alias").symlink_to("my.token")
    monkeypatch.setenv("RAYPLANE_TOKEN_PATH", str(base / "my.token"))
    monkeypatch.setenv("RAYPLANE_HOME", str(base / "state"))
    assert _names(Client().packages.pack(base)[1]) == ["a.py"]
    monkeypatch.setenv("RAYPLANE_HOME", str(tmp_path))  # the code is in the home, not the home in the code
    assert "a.py" in _names(Client().packages.pack(base)[1])


@pytest.mark.parametrize("target", ["../outside", "../outside/key", "/etc/hostname"])
def test_a_link_that_leaves_the_folder_is_refused_by_name(tmp_path: Path, target: str) -> None:
    _tree(tmp_path / "outside", {"key": "secret"})
    base = _tree(tmp_path / "work", {"a.py": "", "pkg/b.py": ""})
    (base / "pkg" / "link").symlink_to(os.path.join(base, target))
    with pytest.raises(InvalidInput, match=r"pkg/link' is a link out of the folder") as caught:
        packaging.pack(base)
    assert "write /pkg/link into" in (caught.value.remedy or "")
    (base / ".rayignore").write_text("/pkg/link\n")
    assert _names(packaging.pack(base)[1]) == [".rayignore", "a.py", "pkg/b.py"]


def test_links_inside_the_folder_are_followed_except_to_excluded_paths(tmp_path: Path) -> None:
    base = _tree(tmp_path / "work", {"a.py": "1", "common/c.py": "", ".git/config": "", ".env": ""})
    for name, target in (("b.py", "a.py"), ("shared", "common"), ("repo", ".git"), ("env", ".env"), ("loop", "loop")):
        (base / name).symlink_to(target)
    assert _names(packaging.pack(base)[1]) == ["a.py", "b.py", "common/c.py", "shared/c.py"]
    (base / "common" / "up").symlink_to("..")
    with pytest.raises(InvalidInput, match=r"common/up' is a link to a folder that it lies in"):
        packaging.pack(base)


def test_a_folder_that_is_named_by_a_link_is_packaged(tmp_path: Path) -> None:
    _tree(tmp_path / "work", {"a.py": "", "pkg/b.py": ""})
    (tmp_path / "link").symlink_to("work")
    assert packaging.pack(tmp_path / "link") == packaging.pack(tmp_path / "work")


def test_a_name_that_is_not_utf_8_is_refused_by_name(tmp_path: Path) -> None:
    base = _tree(tmp_path, {"a.py": ""})
    (base / os.fsdecode(b"caf\xe9.py")).write_text("")
    with pytest.raises(InvalidInput, match="its name is not UTF-8"):
        packaging.pack(base)


def test_a_rayignore_that_is_not_utf_8_is_refused_by_name(tmp_path: Path) -> None:
    base = _tree(tmp_path, {"a.py": ""})
    (base / ".rayignore").write_bytes(b"caf\xe9\n")
    with pytest.raises(InvalidInput, match=r"\.rayignore' is not UTF-8"):
        packaging.pack(base)


@pytest.mark.parametrize("what", ["a.py", "pkg"])
def test_an_unreadable_file_or_folder_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    base = _tree(tmp_path, {"a.py": "", "pkg/b.py": ""})
    scandir, read_bytes = os.scandir, Path.read_bytes

    def refuse(path: Path) -> None:  # simulated, since root may read any file
        if path == base / what:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", lambda path: refuse(Path(path)) or scandir(path))
    monkeypatch.setattr(Path, "read_bytes", lambda path: refuse(path) or read_bytes(path))
    with pytest.raises(InvalidInput, match=rf"{what}' can't be packaged: Permission denied"):
        packaging.pack(base)


@pytest.mark.parametrize("make", ["missing", "file", "empty"])
def test_a_folder_without_code_is_refused(tmp_path: Path, make: str) -> None:
    target = tmp_path / make
    if make == "file":
        target.write_text("x")
    if make == "empty":
        target.mkdir()
    with pytest.raises(InvalidInput):
        packaging.pack(target)


def test_a_package_that_is_too_large_names_its_largest_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaging, "MAX_BYTES", 10)
    base = _tree(tmp_path, {"a.py": "1", "data/big.bin": "x" * 50})
    with pytest.raises(InvalidInput, match=r"'data' takes most.*\.rayignore"):
        packaging.pack(base)


@pytest.mark.parametrize("text", ["sha256:", ".", "jobs", "sha256:" + "g" * 64, "sha256:" + "a" * 63])
def test_a_text_that_is_no_content_address_is_taken_for_a_folder(text: str) -> None:
    assert not packaging.is_address(text)
