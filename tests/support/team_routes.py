"""Request every route of the API that reads a team's data, with names that an earlier team used."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

_PARAMETER = re.compile(r"{(\w+)}")
_OF_ALL = frozenset({"/v1/audit"})
"""Routes that tell the platform's admins of all teams, those that are gone too; no team may ask them."""


@dataclass(frozen=True)
class Answer:
    """Answer of a route."""

    route: str
    """The path template of OpenAPI."""
    path: str
    used: tuple[str, ...]
    """Values of the path's parameters, except the team."""
    status: int
    text: str
    """The body, without the query's values, which an answer may repeat."""


def walk(
    api: httpx.Client, team: str, known: Mapping[str, Sequence[str]], queries: Mapping[str, Sequence[str]]
) -> Iterator[Answer]:
    """Answers of all reading routes for a team, with each of the ``known`` values for each other path parameter.

    ``queries`` has values for required query parameters. Raises KeyError for an unknown parameter, so that new routes
    are covered, too.
    """
    for route, operations in api.get("/openapi.json").raise_for_status().json()["paths"].items():
        if route in _OF_ALL:
            continue
        for method in sorted({"get", "head"} & set(operations)):
            names = [name for name in _PARAMETER.findall(route) if name != "team"]
            asked = [p["name"] for p in _query(operations[method]) if p.get("required")]
            for values in itertools.product(*(known[name] for name in names), *(queries[name] for name in asked)):
                in_path = dict(zip(names, values, strict=False)) | {"team": team}
                path = _PARAMETER.sub(lambda match, put=in_path: quote(put[match[1]], safe=""), route)
                params = dict(zip(asked, values[len(names) :], strict=True))
                answer = api.request(method.upper(), path, params=params)
                text = answer.text
                for value in params.values():
                    text = text.replace(value, "")
                yield Answer(route, path, values[: len(names)], answer.status_code, text)


def leaks(answers: Iterator[Answer], old: Sequence[str]) -> list[str]:
    """Answers that reveal an earlier team: by an ``old`` word, or by the existence of an object of an old name. Pure.

    An answer that only repeats the requested name, as a 404 does, reveals nothing.
    """
    leaking = []
    for answer in answers:
        by_name = any(word in value for value in answer.used for word in old)
        words = [] if by_name else [word for word in old if word in answer.text]
        if words or (by_name and answer.status not in (403, 404)):
            leaking.append(f"{answer.path} ({answer.status}) tells {words or 'that it is there'}: {answer.text[:200]}")
    return leaking


def _query(operation: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [parameter for parameter in operation.get("parameters", []) if parameter["in"] == "query"]
