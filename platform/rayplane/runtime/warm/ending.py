"""Tell the gateway that an attempt's entrypoint has ended, so that it asks Ray at once, not at its next poll."""

from __future__ import annotations

import http.client
import json
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

TIMEOUT = 2.0


def report_end(environment: Mapping[str, str]) -> None:
    """Post an event for the attempt that this environment names. If the gateway is down, it polls Ray later anyway."""
    submission = environment.get("RAYPLANE_SUBMISSION_ID")
    gateway, token_path = environment.get("RAYPLANE_GATEWAY_URL"), environment.get("RAYPLANE_TOKEN_PATH")
    if not (submission and gateway and token_path):
        return
    event = {"id": uuid.uuid4().hex, "type": "attempt.ended", "submission_id": submission, "data": {}}
    parts = urlsplit(gateway)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    with suppress(OSError, http.client.HTTPException, ValueError):
        token = Path(token_path).read_text().strip()
        connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        connection.request("POST", f"{parts.path}/v1/events", json.dumps({"events": [event]}), headers)
        connection.getresponse().read()
