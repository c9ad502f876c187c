"""Every route of the API by which a team's things are read, asked for with the names that an earlier team used."""

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
    """What a route said."""

    route: str
    """As OpenAPI writes it."""
    path: str
    used: tuple[str, ...]
    """What was put in for its parameters, but for the team."""
    status: int
    text: str
    """Without what was put into the query, which an answer may repeat."""


def walk(
    api: httpx.Client, team: str, known: Mapping[str, Sequence[str]], queries: Mapping[str, Sequence[str]]
) -> Iterator[Answer]:
    """What each route that reads says about a team, with each of the ``known`` values for each other parameter.

    ``queries`` has those of the query that a route must be given. Raises KeyError for a parameter that is not known: a
    route that is new must be walked too.
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
    """What the answers tell of an earlier team: anything ``old``, or that there is something of an old name. Pure.

    What only repeats the name that it was asked for, as a 404 does, tells nothing.
    """
    found = []
    for answer in answers:
        by_name = any(word in value for value in answer.used for word in old)
        told = [] if by_name else [word for word in old if word in answer.text]
        if told or (by_name and answer.status not in (403, 404)):
            found.append(f"{answer.path} ({answer.status}) tells {told or 'that it is there'}: {answer.text[:200]}")
    return found


def _query(operation: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [parameter for parameter in operation.get("parameters", []) if parameter["in"] == "query"]
