"""Whether a child answers its health check."""

from __future__ import annotations

import http.client
from urllib.parse import urlsplit

TIMEOUT = 3.0


def answers(url: str, *, timeout: float = TIMEOUT) -> bool:
    """Whether ``url`` (plain HTTP, of this host) answers 200 within ``timeout`` seconds of each read."""
    # Asked twice a second while children start: the standard library's client takes a tenth of httpx' time, and asks
    # no proxy of the environment.
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
    try:
        connection.request("GET", parts.path or "/")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
