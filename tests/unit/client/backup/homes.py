"""Homes for tests, made without running a platform: store, workflows, MLflow, Feast, secrets, storage root."""

from __future__ import annotations

import hashlib
import sqlite3
import struct
import tempfile
from contextlib import closing
from pathlib import Path

from rayplane.gateway.store import Store
from rayplane.gateway.store.snapshot import SnapshotSummary
from rayplane.nouns.dataset import DatasetVersion
from rayplane.settings import GatewaySettings, Home, write_secret
from rayplane.storage import layout
from rayplane.storage.root import open_root
from tests.support import stores

TEAM = "growth"
CODE = b"a package"
PACKAGE = hashlib.sha256(CODE).hexdigest()


def furnish(home: Home) -> GatewaySettings:
    """Write a platform's files to a home; return its settings."""
    settings = GatewaySettings(home=home.path)
    write_secret(home.token, "a-token-of-the-user\n")
    write_secret(home.secrets / "signing.key", "a-key-that-signs\n")
    write_secret(home.secrets / "teams" / f"{TEAM}.mlflow", f"rayplane-{TEAM}\na-password\n")
    write_secret(home.secrets / "mlflow-admin", "rayplane-admin\nold\n")
    sqlite(home.workflows, "workflow_status", ["run-1"])
    for name in ("mlflow", "auth"):
        sqlite(home.mlflow / f"{name}.db", "alembic_version", ["4ae0a8f"])
    root = open_root(settings.root_uri)
    root.write(layout.package(TEAM, PACKAGE), CODE)
    root.write(f"{layout.dataset_version(TEAM, 'flights', 'v1')}/part-0.parquet", b"PAR1" * 1000)
    root.write(f"{layout.job(TEAM, 'j1')}/checkpoints/.metadata.json", b"{}")
    root.append(layout.job_log(TEAM, "j1"), b"line 1\n")
    registry(home.feast / "registry.db", f"{home.storage}/{layout.dataset_version(TEAM, 'flights', 'v1')}")
    store = Store(stores.migrate(settings.store_url))
    store.put("Team", "", TEAM, {}, owner="ada")
    store.put("Job", TEAM, "train", {"entrypoint": "python -m jobs.train", "cluster": "dev"}, owner="ada")
    place = root.uri(layout.dataset_version(TEAM, "flights", "v1"))
    version = {"team": TEAM, "name": "flights", "version": "v1", "content_hash": "0", "rows": 3, "bytes": 9}
    store.put_dataset_version(DatasetVersion(**version, uri=place, columns=[]))
    store.audit("ada", "put", kind="Job", team=TEAM, name="train")
    store.close()
    return settings


def sqlite(path: Path, table: str, values: list[str]) -> None:
    """Write a database with one table of one column, whose last row is only in the WAL."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"CREATE TABLE {table} (version_num TEXT)")
        connection.executemany(f"INSERT INTO {table} VALUES (?)", [(value,) for value in values])


def plant_super_journal(source: Path, victim: Path) -> None:
    """Write a hot journal that names ``victim`` as its super-journal, as a team may beside its own database."""
    with closing(sqlite3.connect(source)) as connection, connection:
        connection.execute("CREATE TABLE rows (version_num TEXT)")
    journal, name = source.with_name(f"{source.name}-journal"), str(victim).encode()
    magic = bytes.fromhex("d9d505f920a163d7")
    header = magic + struct.pack(">IIIII", 0, 0, source.stat().st_size // 4096, 512, 4096)
    tail = struct.pack(">I", (2**30 // 4096) + 1) + name + struct.pack(">II", len(name), sum(name)) + magic
    journal.write_bytes(header.ljust(512, b"\0") + tail)
    victim.write_bytes(magic.ljust(512, b"\0") + str(journal).encode() + b"\0")


def registry(path: Path, source: str) -> None:
    """Write a registry like Feast's, with one feature view of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE feature_views (feature_view_name TEXT, feature_view_proto BLOB)")
        connection.execute("INSERT INTO feature_views VALUES ('delays', ?)", (view(source),))


def view(source: str, *, made_from: str | None = None) -> bytes:
    """The protobuf message of a feature view of a file."""
    from feast.protos.feast.core.FeatureView_pb2 import FeatureView

    message = FeatureView()
    message.spec.name = "delays"
    message.spec.description = f"made from {made_from or source}"
    message.spec.batch_source.file_options.uri = f"{source}/part-*.parquet"
    message.spec.batch_source.timestamp_field = "hour"
    message.spec.ttl.seconds = 2**40
    made: bytes = message.SerializeToString()
    return made


def source_of(message: object) -> str:
    """The file named in a feature view's message."""
    from feast.protos.feast.core.FeatureView_pb2 import FeatureView

    return str(FeatureView.FromString(message).spec.batch_source.file_options.uri)


def rows(path: Path, table: str) -> list[tuple[object, ...]]:
    """Every row of a table."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(f"SELECT * FROM {table}").fetchall()


def tables(settings: GatewaySettings) -> SnapshotSummary:
    """A hash of the rows of each table in a home's store."""
    store = Store(settings.store_url)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return store.write_snapshot(Path(folder))
    finally:
        store.close()
