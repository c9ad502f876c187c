"""Run `mlflow server` in one process, `python -m rayplane.client.up.mlflow_server <options of mlflow server>`.

The command itself imports all of MLflow, prepares the databases, and then starts a second Python for uvicorn, which
imports the same again: 2.5 s and 280 MiB more. Here the command runs unchanged, but uvicorn runs in the same process,
on the socket that the supervisor opened. A new database gets its name only once it is complete: MLflow can neither use
nor repair one whose creation was interrupted. A database of an older MLflow, with which the command would refuse to
start, is upgraded in a copy that then replaces it.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

# Imported first: at import MLflow takes a loaded uvicorn as a sign that it runs as a server, and then checks hosts.
import uvicorn

# isort: split
import mlflow.server
from alembic.script import ScriptDirectory
from mlflow.cli import cli
from mlflow.server.auth.config import read_auth_config
from mlflow.server.auth.db.utils import migrate_if_needed
from mlflow.store.db.utils import _get_alembic_config, _get_schema_version, _initialize_tables, _upgrade_db
from sqlalchemy import create_engine
from sqlalchemy.engine import Engine, make_url

from rayplane import processes


def main(arguments: Sequence[str]) -> None:
    """Create missing databases, upgrade older ones, and serve until a signal ends the process.

    The options are those of `mlflow server`. Exits as the command does, with its exit code and messages.
    """
    listener = processes.take_listener()
    tracking = arguments[arguments.index("--backend-store-uri") + 1]
    make_database(tracking, _initialize_tables)
    upgrade_database(tracking)
    make_database(read_auth_config().database_uri, lambda engine: migrate_if_needed(engine, "head"))
    # setattr, since the type checker refuses a private name of another package.
    setattr(mlflow.server, "_exec_cmd", partial(serve, listener))  # noqa: B010
    cli(["server", *arguments], prog_name="mlflow")


def make_database(uri: str, fill: Callable[[Engine], None]) -> None:
    """Create the SQLite file of ``uri`` (``sqlite:///<path>``) with ``fill``, under a temporary name until complete.

    Leaves an existing file to MLflow, which checks it.
    """
    path = Path(make_url(uri).database or "")
    if path.exists():
        return
    unready = _unready(path)
    _fill(unready, fill)
    _replace(path, unready)


def upgrade_database(uri: str) -> None:
    """Upgrade MLflow's tracking database to this version's schema, completely or not at all.

    Leaves a newer schema to MLflow, which refuses it with a message. MLflow's own upgrade is not one transaction: if
    interrupted, it leaves a database that no version can use. MLflow upgrades the users' database by itself.
    """
    path = Path(make_url(uri).database or "")
    engine = create_engine(f"sqlite:///{path}")
    revision = _get_schema_version(engine)  # type: ignore[no-untyped-call]
    engine.dispose()
    known = ScriptDirectory.from_config(_get_alembic_config(""))  # type: ignore[no-untyped-call]
    if revision == known.get_current_head() or revision not in {r.revision for r in known.walk_revisions()}:
        return
    print(f"MLflow's database has the schema {revision} of an older version: it is upgraded", flush=True)
    unready = _unready(path)
    with closing(sqlite3.connect(path)) as before, closing(sqlite3.connect(unready)) as copy:
        before.backup(copy)
    _fill(unready, _upgrade_db)
    _replace(path, unready)


def _unready(path: Path) -> Path:
    """The temporary path of an incomplete database; deletes what an interrupted start left there."""
    unready = path.with_name(f"{path.name}.partial")
    for interrupted in path.parent.glob(f"{unready.name}*"):  # including its journal
        interrupted.unlink()
    return unready


def _fill(unready: Path, fill: Callable[[Engine], None]) -> None:
    engine = create_engine(f"sqlite:///{unready}")
    fill(engine)
    engine.dispose()


def _replace(path: Path, unready: Path) -> None:
    for stale in ("-journal", "-wal", "-shm"):  # of a deleted database: SQLite would apply them to the new one
        path.with_name(path.name + stale).unlink(missing_ok=True)
    unready.replace(path)


def serve(
    listener: socket.socket | None, command: Sequence[str], *, extra_env: Mapping[str, str], **_: Any
) -> NoReturn:
    """Run MLflow's server command (`python -m uvicorn ...`) in this process instead of a new one."""
    os.environ.update(extra_env)
    options = uvicorn.main.make_context("uvicorn", list(command[3:])).params
    config = uvicorn.Config(**{name: options[name] for name in ("app", "host", "port", "factory", "log_config")})
    uvicorn.Server(config).run(sockets=[listener] if listener is not None else None)
    sys.exit()


if __name__ == "__main__":
    main(sys.argv[1:])
