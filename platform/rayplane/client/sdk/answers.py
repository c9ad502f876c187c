"""Understand a gateway's answers: pages, headers, pauses and errors. Pure."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import httpx
from pydantic import BaseModel

from rayplane import errors

M = TypeVar("M", bound=BaseModel)


class Items(BaseModel, Generic[M]):
    """A list that comes as a whole."""

    items: list[M]


class Page(BaseModel):
    """A part of a list; the next one is asked for with ``next_cursor``, which is None in the last."""

    items: list[dict[str, Any]]
    next_cursor: str | None


def header(answer: httpx.Response, name: str) -> str:
    """The value of a header that every gateway sends; raises Unavailable if it is missing."""
    if name not in answer.headers:
        raise not_a_gateway(answer)
    return str(answer.headers[name])


def pause_of(answer: httpx.Response) -> float | None:
    """Seconds after which the gateway wants to be asked again; None if it does not say so, or is not merely busy."""
    after = answer.headers.get("Retry-After", "")
    if answer.status_code not in (429, 503) or not after.isdecimal():
        return None
    return max(0.1, float(after))


def error_of(answer: httpx.Response) -> errors.RayplaneError:
    """The error that an answer reports; Unavailable if no gateway answers so."""
    if answer.request.method == "HEAD":  # has no body
        where = f"{answer.request.url} answered {answer.status_code}."
        return errors.from_problem({"status": answer.status_code, "detail": where})
    try:
        problem = answer.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict) or not str(problem.get("type")).startswith("urn:rayplane:problem:"):
        return not_a_gateway(answer)
    return errors.from_problem({**problem, "status": answer.status_code})


def not_a_gateway(answer: httpx.Response) -> errors.Unavailable:
    """The error for an answer that can't be from a gateway."""
    where = f" and sends on to {answer.headers['Location']}" if "Location" in answer.headers else ""
    return errors.Unavailable(
        f"{answer.request.url} answered {answer.status_code}{where}: this does not speak rayplane's API.",
        remedy="Set RAYPLANE_URL to the gateway's URL, or leave it out after 'rayplane up'.",
    )
