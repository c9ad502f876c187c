"""Run `mlflow server` in one process, `python -m rayplane.client.up.mlflow_server <options of mlflow server>`.

The command itself imports all of MLflow, looks after the databases, and then starts a second Python for uvicorn, which
imports the same again: 2.5 s and 280 MiB more. Here the command runs as it is, and uvicorn runs where it would have
been started, on the socket that the supervisor opened. New databases appear only once they are whole: MLflow can
neither use nor mend one whose making was interrupted.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

# First: MLflow tells by uvicorn's presence, when it is imported, that it runs as a server, and then checks hosts.
import uvicorn

# isort: split
import mlflow.server
from mlflow.cli import cli
from mlflow.server.auth.config import read_auth_config
from mlflow.server.auth.db.utils import migrate_if_needed
from mlflow.store.db.utils import _initialize_tables
from sqlalchemy import create_engine
from sqlalchemy.engine import Engine, make_url

from rayplane import processes


def main(arguments: Sequence[str]) -> None:
    """Make the databases that are missing and serve until a signal ends it; the options are those of `mlflow server`.

    Ends as the command does: with its exit code and its messages.
    """
    listener = processes.take_listener()
    make_database(arguments[arguments.index("--backend-store-uri") + 1], _initialize_tables)
    make_database(read_auth_config().database_uri, lambda engine: migrate_if_needed(engine, "head"))
    # The type checker covers no private name of another package.
    setattr(mlflow.server, "_exec_cmd", partial(serve, listener))  # noqa: B010
    cli(["server", *arguments], prog_name="mlflow")


def make_database(uri: str, fill: Callable[[Engine], None]) -> None:
    """Make the SQLite file of ``uri`` (``sqlite:///<path>``) with ``fill``, under another name until it is whole.

    A file that is there stays as it is: MLflow checks it.
    """
    path = Path(make_url(uri).database or "")
    if path.exists():
        return
    unready = path.with_name(f"{path.name}.partial")
    for interrupted in path.parent.glob(f"{unready.name}*"):  # with its journal
        interrupted.unlink()
    engine = create_engine(f"sqlite:///{unready}")
    fill(engine)
    engine.dispose()
    for stale in ("-journal", "-wal", "-shm"):  # of a file that was taken away: SQLite would play them into this one
        path.with_name(path.name + stale).unlink(missing_ok=True)
    unready.replace(path)


def serve(
    listener: socket.socket | None, command: Sequence[str], *, extra_env: Mapping[str, str], **_: Any
) -> NoReturn:
    """Stand in for MLflow's start of ``command`` (`python -m uvicorn ...`): do what it would do, in this process."""
    os.environ.update(extra_env)
    options = uvicorn.main.make_context("uvicorn", list(command[3:])).params
    config = uvicorn.Config(**{name: options[name] for name in ("app", "host", "port", "factory", "log_config")})
    uvicorn.Server(config).run(sockets=[listener] if listener is not None else None)
    sys.exit()


if __name__ == "__main__":
    main(sys.argv[1:])
