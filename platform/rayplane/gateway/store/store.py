"""The Store: all state of the gateway in one SQL database (SQLite or Postgres)."""

from __future__ import annotations

from rayplane.gateway.store.database import prepare_file
from rayplane.gateway.store.filing import Filing
from rayplane.gateway.store.leadership import Leadership
from rayplane.gateway.store.ledger import Ledger
from rayplane.gateway.store.migrate import upgrade
from rayplane.gateway.store.objects import Objects
from rayplane.gateway.store.records import Records
from rayplane.gateway.store.snapshot import Snapshot
from rayplane.gateway.store.texts import Texts


class Store(Objects, Texts, Ledger, Records, Filing, Leadership, Snapshot):
    """All tables of the gateway. Synchronous, thread-safe. Instants have zones. Group calls by ``transaction()``."""

    def migrate(self) -> None:
        """Migrate the schema to this version. Raises Unsupported if a newer rayplane wrote the database."""
        prepare_file(self._url)
        with self._errors():
            upgrade(self._engine)
