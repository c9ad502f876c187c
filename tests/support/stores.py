"""SQLite stores without the time of migrations: each is a copy of an empty database that was migrated once."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from sqlalchemy.engine import make_url

from rayplane.gateway.store import Store
from rayplane.gateway.store.database import prepare_file


def migrate(url: str) -> str:
    """Write an empty database of the present schema to ``url`` (``sqlite:///<path>``); return the URL."""
    parsed = make_url(url)
    assert parsed.database is not None
    prepare_file(parsed)
    Path(parsed.database).write_bytes(_empty())
    return url


@functools.cache
def _empty() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "empty.db"
        store = Store(f"sqlite:///{path}")
        store.migrate()
        store.close()
        return path.read_bytes()
