"""Interface of the adapters of data sources."""

from __future__ import annotations

from typing import Protocol

import pyarrow as pa


class Source(Protocol):
    """The adapter of a URI scheme: a plug-in of the family ``sources``, made without arguments at each use.

    ``open_source`` checks its answer: it applies the types, and refuses a table without rows.
    """

    def read(self, uri: str, types: pa.Schema | None) -> pa.Table:
        """All rows at a URI of the scheme. ``types``: the types that some columns must have, where that helps to parse.

        Raises NotFound for a missing source, InvalidInput or Unsupported for a URI that can't be read. Arrow's errors
        and OSError may pass: ``open_source`` translates them.
        """
        ...
