"""The gateway's state in SQL: objects, append-only rows, leadership."""

from __future__ import annotations

from rayplane.gateway.store.paging import Page
from rayplane.gateway.store.store import Store

__all__ = ["Page", "Store"]
