"""The Ray Serve application of a registered model: HTTP around ``scoring.Scorer``."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib import import_module
from typing import Any

from pydantic import Field
from ray import serve
from ray.serve import metrics
from starlette.requests import Request
from starlette.responses import Response

from rayplane.errors import InvalidInput, RayplaneError, TooLarge
from rayplane.nouns.base import Name, Spec
from rayplane.nouns.base import parse as parse_spec
from rayplane.runtime.serving.request import MAX_INSTANCES
from rayplane.runtime.serving.scoring import Scorer

MAX_BODY = 8 * 2**20
"""Bytes that a request's body may have."""

_log = logging.getLogger(__name__)


class AppArgs(Spec):
    """The application's arguments, as the service reconciler writes them into Serve's configuration."""

    model_uri: str
    """``models:/<name>/<version>``."""
    service: Name
    feature_service: str | None = None
    """Overrides the feature service that the model's card records."""
    min_replicas: int = Field(default=1, ge=0)
    max_replicas: int = Field(default=1, ge=1)
    max_ongoing_requests: int = Field(default=100, ge=1)
    max_instances: int = Field(default=MAX_INSTANCES, ge=1)
    num_cpus: float = Field(default=1, ge=0)
    """Logical CPUs that one replica reserves."""


def build(args: dict[str, Any]) -> serve.Application:
    """Build the application from ``AppArgs``; raises InvalidSpec naming each wrong argument."""
    wanted = parse_spec(AppArgs, args, "args")
    scaling: dict[str, Any] = {"num_replicas": wanted.min_replicas}
    if wanted.min_replicas != wanted.max_replicas:
        scaling = {
            "autoscaling_config": {
                "min_replicas": wanted.min_replicas,
                "max_replicas": wanted.max_replicas,
                # A replica scores one request after the other: Serve adds one once half of its queue is in use.
                "target_ongoing_requests": max(1, wanted.max_ongoing_requests // 2),
            }
        }
    deployment = serve.deployment(
        name="model",
        max_ongoing_requests=wanted.max_ongoing_requests,
        ray_actor_options={"num_cpus": wanted.num_cpus},
        **scaling,
    )(ModelReplica)
    application: serve.Application = deployment.bind(wanted.model_dump())
    return application


class ModelReplica:
    """One replica: a loaded model, and access to the online features."""

    def __init__(self, args: dict[str, Any]) -> None:
        # Imported only in the replica: building the application needs neither MLflow nor Feast.
        from rayplane.runtime import models

        wanted = AppArgs.model_validate(args)
        model = models.load(wanted.model_uri)
        if wanted.feature_service or model.card.feature_service:
            import_module("rayplane.runtime.features")  # imports Feast now, not at the first request
        self._scorer = Scorer(
            model,
            service=wanted.service,
            feature_service=wanted.feature_service,
            read_online=_read_online,
            max_instances=wanted.max_instances,
        )
        tags: dict[str, str] = {"service": wanted.service, "model": self._scorer.name}
        self._predictions = _counter("rayplane_predictions", "Instances that were predicted.", tags)
        self._missing = _counter("rayplane_missing_features", "Features of predicted instances without a value.", tags)
        self._problems = _counter("rayplane_prediction_problems", "Requests that got no prediction.", tags, "status")
        self._seconds = metrics.Histogram(
            "rayplane_prediction_seconds",
            description="Time to check, complete and score a request.",
            boundaries=[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5],
            tag_keys=_keys(tags),
        )
        self._seconds.set_default_tags(dict(tags))

    async def __call__(self, request: Request) -> Response:
        """Answer a request: POST predicts, GET returns the schema; every problem is an RFC 9457 document."""
        try:
            if request.method in ("GET", "HEAD"):
                return _json(self._scorer.describe())
            if request.method != "POST":
                return _json(
                    _not_allowed(request.method),
                    405,
                    "application/problem+json",
                    {"Allow": "GET, HEAD, POST"},
                )
            body = await _body(request)
            started = time.perf_counter()
            # In a thread, since reading features waits for a database and would block the replica's event loop.
            answer = await asyncio.to_thread(self._scorer.predict, body)
            self._seconds.observe(time.perf_counter() - started)
        except RayplaneError as exc:
            if not isinstance(exc, InvalidInput):
                _log.exception("a request could not be answered")
            self._problems.inc(tags={"status": str(exc.status)})
            return _json(exc.to_problem(instance=request.url.path), exc.status, "application/problem+json")
        self._predictions.inc(len(answer.predictions))
        if answer.missing:
            self._missing.inc(answer.missing)
        return _json({"predictions": answer.predictions, "model": self._scorer.name})


async def _body(request: Request) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            raise TooLarge(f"The body has more than {MAX_BODY} bytes.", remedy="Send it in several requests.")
        parts.append(part)
    return b"".join(parts)


def _not_allowed(method: str) -> dict[str, Any]:
    return {
        "type": "urn:rayplane:problem:method-not-allowed",
        "title": "Method not allowed",
        "status": 405,
        "detail": f"{method} is not answered here.",
        "remedy": "POST instances to predict, GET the schema.",
    }


def _read_online(
    service: str, rows: Sequence[Mapping[str, Any]], instants: Sequence[datetime]
) -> Mapping[str, Sequence[Any]]:
    """Read online features; imports Feast here, so that a replica whose model has none never does."""
    from rayplane.runtime import features

    return features.online(service, rows, instants)


def _json(
    value: Any, status: int = 200, media_type: str = "application/json", headers: dict[str, str] | None = None
) -> Response:
    return Response(json.dumps(value, allow_nan=False), status, headers=headers, media_type=media_type)


def _keys(tags: dict[str, str], *others: str) -> Any:
    return (*tags, *others)  # Any, since Ray's annotation allows only a tuple of one


def _counter(name: str, description: str, tags: dict[str, str], *others: str) -> metrics.Counter:
    counter = metrics.Counter(name, description=description, tag_keys=_keys(tags, *others))
    counter.set_default_tags(dict(tags))  # a copy, since Serve adds its own tags to it
    return counter
