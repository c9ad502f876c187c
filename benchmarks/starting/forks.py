"""Load a warm interpreter's libraries, then time forks that exit at once: `... forks FOLDER COUNT`; prints JSON."""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import time

from rayplane.runtime.warm import libraries


def main() -> None:
    """Measure and print."""
    libraries.load(sys.argv[1])
    gc.collect()
    gc.freeze()
    gc.disable()
    turns = [milliseconds_of_fork() for _ in range(int(sys.argv[2]))]
    print(json.dumps({"forks": len(turns), "fork_and_exit_median_ms": round(statistics.median(turns), 2)}), flush=True)
    os._exit(0)  # as the warm interpreter's children do: at a normal exit DuckDB (2.0) prints pages of leaked objects


def milliseconds_of_fork() -> float:
    """Milliseconds to fork a child that exits at once, and to wait for it."""
    began = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return 1000 * (time.perf_counter() - began)


if __name__ == "__main__":
    main()
