"""Every storage scheme, the platform's own and a third party's, against the contract suite."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from rayplane.storage.root import Storage, open_root
from rayplane.testing.storage_contract import StorageContract


class TestFile(StorageContract):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        return open_root(f"file://{tmp_path}/root")


class TestThirdParty(StorageContract):
    @pytest.fixture
    def storage(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, third_party: Mapping[str, Mapping[str, str]]
    ) -> Storage:
        assert set(third_party["storage"]) == {"volume"}
        monkeypatch.setenv("ACME_VOLUMES", str(tmp_path / "mnt"))
        return open_root("volume://data/rayplane")

    def test_a_file_is_on_the_volume(self, storage: Storage, tmp_path: Path) -> None:
        storage.write("growth/file", b"1")
        assert (tmp_path / "mnt/data/rayplane/growth/file").read_bytes() == b"1"
