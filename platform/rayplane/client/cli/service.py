"""`rayplane service`: print a service's URL, and request a prediction."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayplane.client.cli.noun import NameArgument, group
from rayplane.client.cli.output import Format, Output, TeamOption, client, print_json, say, team_of
from rayplane.nouns import SERVICE

if TYPE_CHECKING:
    from rayplane.client.sdk import Client

app = group(SERVICE)


@app.command()
def url(
    name: NameArgument,
    wait: Annotated[bool, typer.Option(help="Wait until it is ready.")] = True,
    team: TeamOption = None,
    output: Output = None,
) -> None:
    """Print the URL to which prediction requests are posted as JSON."""
    with client() as api:
        address = _url(api, team_of(api, team), name, wait)
    print_json({"url": address}) if output is Format.JSON else say(address)


@app.command()
def predict(
    name: NameArgument,
    data: Annotated[str, typer.Option(help="JSON, @FILE or @- for standard input.", show_default=False)],
    team: TeamOption = None,
    output: Output = None,
) -> None:
    """Request a prediction from a service and print its answer, which is JSON with or without -o json."""
    import httpx

    from rayplane.errors import Failed, Unavailable, from_problem

    del output
    body = _read(data)
    with client() as api:
        target = _url(api, team_of(api, team), name, wait=False)
    try:
        answer = httpx.post(target, json=body, timeout=60, trust_env=False)
    except httpx.TransportError as exc:
        raise Unavailable(f"Service '{name}' at {target} can't be reached ({exc}).", remedy="Try again.") from exc
    try:
        content = answer.json()
    except ValueError:
        content = None
    if not answer.is_success and isinstance(content, dict):
        raise from_problem({**content, "status": answer.status_code})
    if not answer.is_success or (content is None and answer.text.strip() != "null"):
        what = "" if not answer.is_success else ", which is no JSON"
        raise Failed(f"Service '{name}' answered {answer.status_code}: {answer.text[:500]}{what}")
    print_json(content)


def _url(api: Client, team: str, name: str, wait: bool) -> str:
    from rayplane.client.sdk import why
    from rayplane.errors import Unavailable

    obj = api.services.wait(team, name) if wait else api.services.get(team, name)
    address = obj.status.get("url")
    if not address:
        raise Unavailable(
            f"Service '{team}/{name}' is {obj.status.get('phase', 'Pending')}: {why(obj) or 'it has no URL yet'}.",
            remedy="Wait until it is Ready.",
        )
    return str(address)


def _read(data: str) -> Any:
    from rayplane.errors import InvalidInput
    from rayplane.nouns.base import check_json

    try:
        if data == "@-":
            text = sys.stdin.read()
        elif data.startswith("@"):
            text = Path(data[1:]).read_text()
        else:
            text = data
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is no text"
        raise InvalidInput(f"'{data[1:]}' can't be read: {reason}.", remedy="Name a JSON file.") from exc
    try:
        return check_json(json.loads(text, parse_constant=_no_number))
    except (ValueError, RecursionError) as exc:
        raise InvalidInput(f"--data is not JSON: {exc}.", remedy="Write JSON, or @FILE.") from exc


def _no_number(text: str) -> object:
    raise ValueError(f"{text} is no number")
