"""Check a child's health over HTTP."""

from __future__ import annotations

import http.client
from urllib.parse import urlsplit

TIMEOUT = 3.0


def answers(url: str, *, timeout: float = TIMEOUT) -> bool:
    """True if ``url`` (plain HTTP, on this host) answers 200; each read may take ``timeout`` seconds."""
    # Called twice a second while children start: the standard library's client takes a tenth of httpx' time, and
    # ignores HTTP proxies of the environment.
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
    try:
        connection.request("GET", parts.path or "/")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
