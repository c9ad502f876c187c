"""Measure uploads of large packages to the gateway, compared with a bare server that only writes them to the disk."""

from __future__ import annotations

import hashlib
import os
import socket
import statistics
import time
import zipfile
from pathlib import Path
from typing import Any

from benchmarks.at_the_gateway.bare import bare
from benchmarks.at_the_gateway.jobs import TEAM
from benchmarks.at_the_gateway.process import Gateway
from benchmarks.shared.figures import say

SIZE = 500 * 10**6
ROUNDS = 5
_PART = 2**20


def measure(server: Gateway) -> dict[str, Any]:
    """Upload packages of 500 MB to the gateway and to the bare server in turns, and return the figures."""
    ours, theirs = [], []
    before = server.resident_mb()
    with bare(server.home / "direct", b"{}") as port:
        for number in range(ROUNDS):
            say(f"an upload of {SIZE // 10**6} MB, {number + 1} of {ROUNDS}")
            package, sha256 = _package(server.home / "package.zip")
            # The file is in the page cache now, so that sending it reads no disk.
            theirs.append(_put(port, "/", "", package))
            ours.append(_put(server.port, f"/v1/teams/{TEAM}/packages/{sha256}", server.token, package))
            package.unlink()
            (server.home / "storage" / TEAM / "packages" / f"{sha256}.zip").unlink()
    return {
        "bytes": SIZE,
        "gateway_seconds": [round(seconds, 3) for seconds in ours],
        "bare_seconds": [round(seconds, 3) for seconds in theirs],
        "of_direct": round(statistics.median(theirs) / statistics.median(ours), 3),
        "resident_mb_before": round(before, 1),
        "resident_mb_more": round(server.most_resident_mb() - before, 1),
    }


def _package(path: Path) -> tuple[Path, str]:
    """Write a zip with one stored file of new random bytes; returns its path and SHA-256."""
    with zipfile.ZipFile(path, "w") as archive, archive.open("model.bin", "w", force_zip64=True) as entry:
        for _ in range(SIZE // _PART):
            entry.write(os.urandom(_PART))
    with path.open("rb") as file:
        return path, hashlib.file_digest(file, "sha256").hexdigest()


def _put(port: int, path: str, token: str, package: Path) -> float:
    """Upload a package; returns the seconds until the answer, raises SystemExit unless it is 201."""
    lines = [f"PUT {path} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {token}"]
    lines += ["Content-Type: application/zip", f"Content-Length: {package.stat().st_size}", "Connection: close", "", ""]
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=600) as connection, package.open("rb") as file:
        connection.sendall("\r\n".join(lines).encode())
        connection.sendfile(file)
        answer = connection.recv(65536)
    if not answer.startswith(b"HTTP/1.1 201"):
        raise SystemExit(f"PUT {path}: {answer[:500]!r}")
    return time.monotonic() - began
