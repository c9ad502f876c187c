"""One gateway process, as `python -m rayplane.gateway` starts it, on a store that was filled before; what it uses."""

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
    """A gateway that answers."""

    pid: int
    port: int
    token: str
    home: Path

    def connect(self, token: str | None = None) -> Connection:
        """A new keep-alive connection of the local user, or of another token."""
        return Connection(self.port, self.token if token is None else token)

    def cpu_seconds(self) -> float:
        """What it has used since it began."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def cores(self, seconds: float) -> float:
        """How many cores it uses, over so many seconds from now."""
        began, before = time.monotonic(), self.cpu_seconds()
        time.sleep(seconds)
        return (self.cpu_seconds() - before) / (time.monotonic() - began)

    def resident_mb(self) -> float:
        """Its resident memory."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def most_resident_mb(self) -> float:
        """The most resident memory that it ever had."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


@contextmanager
def gateway(home: Path, fill: Callable[[Store], None], **settings: str) -> Iterator[Gateway]:
    """Fill a new home's store, then run a gateway on it, with more settings, until the block's end."""
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
    """Wait until it answers; the local user's token."""
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
