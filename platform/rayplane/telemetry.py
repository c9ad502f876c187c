"""Structured logging: one JSON object per line, with secrets redacted."""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime

_SECRET = re.compile(
    r"(?i)(bearer\s+|(?:token|password|secret|authorization|api[_-]?key)[\"']?\s*[:=]\s*[\"']?)([^\s\"',;&]+)"
    r"|(://[^/\s:@]+:)([^@\s/]+)(@)"
)
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def redact(text: str) -> str:
    """``text`` with the values of tokens, passwords and URL credentials replaced by ``***``."""
    return _SECRET.sub(lambda m: f"{m[1]}***" if m[1] else f"{m[3]}***{m[5]}", text)


class JsonFormatter(logging.Formatter):
    """A log record as one line of JSON; ``extra`` fields become members."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        line.update({k: _plain(v) for k, v in record.__dict__.items() if k not in _STANDARD})
        if record.exc_info:
            line["exception"] = redact(self.formatException(record.exc_info))
        return json.dumps(line, default=str)


def configure(level: str = "INFO") -> None:
    """Send the root logger to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # httpx logs every request at INFO, and the gateway polls clusters every few seconds.
    logging.getLogger("httpx").setLevel(logging.WARNING)


def _plain(value: object) -> object:
    return redact(value) if isinstance(value, str) else value
