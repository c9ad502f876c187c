"""A bare uvicorn server, with which a gateway is compared: it answers a constant and writes uploads to a file.

python -m benchmarks.at_the_gateway.bare PORT FOLDER
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from benchmarks.at_the_gateway.asking import Connection
from rayplane.processes import free_port

PATIENCE = 60.0
_PART = 2**18


class Bare:
    """ASGI application: GET returns the bytes of ``<folder>/answer``, PUT writes and syncs its body to ``upload``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._answer = b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        if request.method == "PUT":
            await self._write(request)
            await Response(status_code=201)(scope, receive, send)
            return
        if not self._answer:
            self._answer = (self._folder / "answer").read_bytes()
        await Response(self._answer, media_type="application/json")(scope, receive, send)

    async def _write(self, request: Request) -> None:
        with (self._folder / "upload").open("wb", buffering=0) as file:
            part = bytearray()
            async for chunk in request.stream():
                part += chunk
                if len(part) >= _PART:
                    await asyncio.to_thread(file.write, part)
                    part = bytearray()
            await asyncio.to_thread(file.write, part)
            await asyncio.to_thread(os.fsync, file.fileno())


@contextmanager
def bare(folder: Path, answer: bytes) -> Iterator[int]:
    """Run such a server in a process until the block's end; yields its port."""
    folder.mkdir()
    (folder / "answer").write_bytes(answer)
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.at_the_gateway.bare", str(port), str(folder)])
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with Connection(port, "") as connection:
                    connection.ask("/")
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=PATIENCE)


if __name__ == "__main__":
    app = Bare(Path(sys.argv[2]))
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), http="httptools", log_level="warning", access_log=False)
