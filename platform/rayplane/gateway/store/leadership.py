"""Decide which of several gateways reconciles: one row, leased for a time by one holder, who renews it."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, func, insert, select, update

from rayplane.gateway.store.database import Database
from rayplane.gateway.store.tables import leader
from rayplane.nouns.base import utcnow


class Leadership(Database):
    """The leader's row."""

    def acquire_leadership(self, holder: str, ttl_seconds: float) -> bool:
        """Take or renew leadership for ``ttl_seconds``; False while another holder has it."""
        with self._write() as connection:
            now = self._instant(connection)
            row = connection.execute(select(leader).where(leader.c.id == 1)).one_or_none()
            until = now + timedelta(seconds=ttl_seconds)
            if row is None:
                connection.execute(insert(leader).values(id=1, holder=holder, expires_at=until))
                return True
            if row.holder != holder and row.expires_at > now:
                return False
            connection.execute(update(leader).where(leader.c.id == 1).values(holder=holder, expires_at=until))
            return True

    def release_leadership(self, holder: str) -> None:
        """Release leadership at once; does nothing if another holder has it."""
        with self._write() as connection:
            connection.execute(delete(leader).where(leader.c.id == 1, leader.c.holder == holder))

    def _instant(self, connection: Connection) -> datetime:
        # The gateways' clocks may differ by more than the lease lasts: on Postgres the server's clock decides.
        if self._clock is utcnow and connection.dialect.name == "postgresql":
            instant: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
            return instant
        return self._clock()
