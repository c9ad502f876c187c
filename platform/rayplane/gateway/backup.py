"""Write the store's snapshot, or read it: `python -m rayplane.gateway.backup write|read FOLDER`.

A process of its own, since the client imports nothing of the gateway. It answers with JSON on standard output; an error
is a problem document on standard error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rayplane.errors import RayplaneError
from rayplane.gateway.store import Store
from rayplane.settings import load_gateway
from rayplane.storage.root import room


def main(arguments: Sequence[str]) -> int:
    """Do what the first argument says with the folder of the second; the exit code."""
    verb, folder = arguments
    try:
        store = Store(load_gateway().store_url)
        try:
            with room("write the snapshot of the store"):
                act = {"write": store.write_snapshot, "read": store.read_snapshot}[verb]
                summary = act(Path(folder))
        finally:
            store.close()
    except RayplaneError as exc:
        print(json.dumps(exc.to_problem(), default=str), file=sys.stderr)
        return exc.exit_code
    print(json.dumps(asdict(summary)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
