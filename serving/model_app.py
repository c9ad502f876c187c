"""The team's own Serve application around the platform's: what to copy when a model needs code beside it.

A service takes it by ``app: serving.model_app:app`` and ``package:``; every argument of the platform's
application comes in.
"""

from __future__ import annotations

from typing import Any

from ray import serve

from rayplane.runtime.serving.app import build

MAX_INSTANCES = 200
"""Flights of one request: this team's clients ask for a gate's or an hour's flights, never for a year's."""


def app(args: dict[str, Any]) -> serve.Application:
    """The platform's application with the team's own limit. Raises InvalidSpec for arguments that it does not
    know."""
    return build({"max_instances": MAX_INSTANCES, **args})
