"""The runtime environment of a job: its code and variables."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import pytest

from rayplane.errors import NotFound
from rayplane.gateway.reconcile import runtime_env
from rayplane.storage import layout
from rayplane.storage.root import Storage, open_root


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), name)
    return buffer.getvalue()


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_root(f"file://{tmp_path}")


def keep(storage: Storage, data: bytes) -> str:
    sha256 = hashlib.sha256(data).hexdigest()
    storage.write(layout.package("alpha", sha256), data)
    return f"sha256:{sha256}"


def test_a_package_with_several_top_entries_is_passed_unchanged(storage: Storage) -> None:
    package = keep(storage, zipped("jobs/a.py", "README.md"))
    uri = runtime_env.package_uri(storage, "alpha", package)
    assert uri == f"file://{storage.local_path(layout.package('alpha', package.removeprefix('sha256:')))}"


def test_a_package_of_one_folder_gets_a_second_top_entry_so_that_ray_keeps_the_folder(storage: Storage) -> None:
    package = keep(storage, zipped("jobs/__init__.py", "jobs/a.py"))
    uri = runtime_env.package_uri(storage, "alpha", package)
    assert uri == runtime_env.package_uri(storage, "alpha", package)
    data = Path(uri.removeprefix("file://")).read_bytes()
    assert not runtime_env.has_single_top_folder(data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.read("jobs/a.py") == b"jobs/a.py"
        assert archive.testzip() is None


def test_a_missing_package_is_an_error(storage: Storage) -> None:
    with pytest.raises(NotFound):
        runtime_env.package_uri(storage, "alpha", "sha256:" + "0" * 64)


def test_an_empty_runtime_env_has_no_keys(storage: Storage) -> None:
    assert runtime_env.build(storage, "alpha", None, env={}) == {}
    built = runtime_env.build(storage, "alpha", None, env={"A": "1"}, pip=["x"])
    assert built == {"env_vars": {"A": "1"}, "pip": ["x"]}
