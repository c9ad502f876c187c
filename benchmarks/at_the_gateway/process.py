"""Run one gateway process (`python -m rayplane.gateway`) on a store filled before, and read its CPU and memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.at_the_gateway.asking import Connection
from rayplane.gateway.store import Store
from rayplane.processes import free_port
from rayplane.settings import GatewaySettings

PATIENCE = 120.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Gateway:
    """A running gateway."""

    pid: int
    port: int
    token: str
    home: Path

    def connect(self, token: str | None = None) -> Connection:
        """Open a keep-alive connection with the local user's token, or with another one."""
        return Connection(self.port, self.token if token is None else token)

    def cpu_seconds(self) -> float:
        """Seconds of CPU used since its start."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def cores(self, seconds: float) -> float:
        """Mean number of cores in use over the next ``seconds``."""
        began, before = time.monotonic(), self.cpu_seconds()
        time.sleep(seconds)
        return (self.cpu_seconds() - before) / (time.monotonic() - began)

    def resident_mb(self) -> float:
        """Resident memory now."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def most_resident_mb(self) -> float:
        """Peak of its resident memory."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


@contextmanager
def gateway(home: Path, fill: Callable[[Store], None], **settings: str) -> Iterator[Gateway]:
    """Fill the store of a new home, then run a gateway on it until the block's end, with further ``settings``."""
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAYPLANE_")}
    settings |= {"HOME": str(home), "PORT": str(port), "LOG_LEVEL": "WARNING"}
    environment |= {f"RAYPLANE_{name}": value for name, value in settings.items()}
    store = Store(GatewaySettings(home=home).store_url)
    store.migrate()
    fill(store)
    store.close()
    with (home / "gateway.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "rayplane.gateway"], env=environment, stdout=log, stderr=log)
        try:
            yield Gateway(process.pid, port, _await(process, port, home), home)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await(process: subprocess.Popen[bytes], port: int, home: Path) -> str:
    """Wait until the gateway answers; returns the local user's token."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with Connection(port, "") as connection:
                connection.ask("/healthz")
            return (home / "token").read_text().strip()
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"the gateway does not answer: {(home / 'gateway.log').read_text()[-2000:]}")
