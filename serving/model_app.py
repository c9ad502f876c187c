"""The team's own Serve application around the platform's: a template for a model that needs code of its own.

A service uses it with ``app: serving.model_app:app`` and ``package:``, and gets every argument of the platform's
application.
"""

from __future__ import annotations

from typing import Any

from ray import serve

from rayplane.runtime.serving.app import build

MAX_INSTANCES = 200
"""Flights that one request may hold: this team's clients ask for the flights of a gate or an hour, not of a year."""


def app(args: dict[str, Any]) -> serve.Application:
    """Build the platform's application with the team's own limit. Raises InvalidSpec for unknown arguments."""
    return build({"max_instances": MAX_INSTANCES, **args})
