"""MLflow's server in one process: databases are created completely or not at all; MLflow's command does the rest."""

from __future__ import annotations

import importlib
import os
import sqlite3
import subprocess
import sys
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.engine import Engine


@pytest.fixture(scope="module")
def mlflow_server() -> Any:
    """The module under test, imported lazily since it imports all of MLflow's server."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("rayplane.client.up.mlflow_server")


def tables(path: Path) -> set[str]:
    with sqlite3.connect(path) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def one_table(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE whole (id INTEGER)"))


def interrupted(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE half (id INTEGER)"))
    raise KeyboardInterrupt


def test_a_database_whose_creation_was_interrupted_has_no_name_and_is_created_again(
    mlflow_server: Any, tmp_path: Path
) -> None:
    path = tmp_path / "mlflow.db"
    with pytest.raises(KeyboardInterrupt):
        mlflow_server.make_database(f"sqlite:///{path}", interrupted)
    assert not path.exists()
    mlflow_server.make_database(f"sqlite:///{path}", one_table)
    assert tables(path) == {"whole"}
    assert os.listdir(tmp_path) == ["mlflow.db"]


def test_an_existing_database_is_left_alone(mlflow_server: Any, tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_bytes(b"a database of before")
    mlflow_server.make_database(f"sqlite:///{path}", one_table)
    assert path.read_bytes() == b"a database of before"


OLDER = "6f8d9c3b2a1e"
"""A schema of MLflow older than the installed one."""


def older_database(path: Path) -> None:
    """Write a tracking database with an older schema and an experiment."""
    from alembic import command
    from mlflow.store.db.utils import InitialBase, _get_alembic_config
    from sqlalchemy import create_engine

    engine = create_engine(f"sqlite:///{path}")
    InitialBase.metadata.create_all(engine)
    config = _get_alembic_config(str(engine.url))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, OLDER)
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO experiments (name, workspace, lifecycle_stage) VALUES ('delays', 'growth', 'active')")
        )
    engine.dispose()


def revision(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        [(number,)] = connection.execute("SELECT version_num FROM alembic_version")
        return str(number)


def test_a_database_of_an_older_mlflow_is_upgraded_and_keeps_its_rows(mlflow_server: Any, tmp_path: Path) -> None:
    from mlflow.store.db.utils import _get_latest_schema_revision

    path = tmp_path / "mlflow.db"
    older_database(path)
    mlflow_server.upgrade_database(f"sqlite:///{path}")
    assert revision(path) == _get_latest_schema_revision() != OLDER
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT name, workspace FROM experiments").fetchall() == [("delays", "growth")]
    assert os.listdir(tmp_path) == ["mlflow.db"]
    before = path.stat()
    mlflow_server.upgrade_database(f"sqlite:///{path}")
    assert path.stat().st_ino == before.st_ino, "what is new enough is not touched"


def test_an_upgrade_that_is_interrupted_leaves_the_database_as_it_was(
    mlflow_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mlflow.db"
    older_database(path)
    with monkeypatch.context() as patch:
        patch.setattr(mlflow_server, "_upgrade_db", interrupted)
        with pytest.raises(KeyboardInterrupt):
            mlflow_server.upgrade_database(f"sqlite:///{path}")
    assert revision(path) == OLDER
    assert "half" not in tables(path)
    mlflow_server.upgrade_database(f"sqlite:///{path}")
    assert revision(path) != OLDER
    assert os.listdir(tmp_path) == ["mlflow.db"]


def test_a_database_of_a_newer_mlflow_is_left_to_mlflow_to_refuse(mlflow_server: Any, tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.execute("INSERT INTO alembic_version VALUES ('ffffffffffff')")
    mlflow_server.upgrade_database(f"sqlite:///{path}")
    assert revision(path) == "ffffffffffff"


def test_options_that_mlflow_refuses_end_the_process_with_mlflows_message_and_code(tmp_path: Path) -> None:
    """Run the real server with options that MLflow itself parses and refuses."""
    auth = tmp_path / "auth.ini"
    auth.write_text(f"[mlflow]\ndatabase_uri = sqlite:///{tmp_path}/auth.db\ndefault_permission = READ\n")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "rayplane.client.up.mlflow_server"),
            *("--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db", "--no-such-option"),
        ],
        env={**os.environ, "MLFLOW_AUTH_CONFIG_PATH": str(auth)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 2
    assert "--no-such-option" in done.stderr
    assert {"experiments", "alembic_version"} <= tables(tmp_path / "mlflow.db")
    assert {"users", "alembic_version_auth"} <= tables(tmp_path / "auth.db")
