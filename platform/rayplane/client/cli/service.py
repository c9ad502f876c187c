"""`rayplane service`: a service's URL, and a prediction from it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayplane.client.cli.noun import NameArgument, group
from rayplane.client.cli.output import Format, Output, TeamOption, client, print_json, say, team_of

if TYPE_CHECKING:
    from rayplane.client.sdk import Client

app = group("services", "Deployed models.")


@app.command()
def url(
    name: NameArgument,
    wait: Annotated[bool, typer.Option(help="Wait until it is ready.")] = True,
    team: TeamOption = None,
    output: Output = None,
) -> None:
    """Print where predictions are asked: POST JSON there."""
    with client() as api:
        found = _url(api, team_of(api, team), name, wait)
    print_json({"url": found}) if output is Format.JSON else say(found)


@app.command()
def predict(
    name: NameArgument,
    data: Annotated[str, typer.Option(help="JSON, @FILE or @- for standard input.", show_default=False)],
    team: TeamOption = None,
    output: Output = None,
) -> None:
    """Ask a service for a prediction and print its answer, which is JSON with or without -o json."""
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
        said = answer.json()
    except ValueError:
        said = None
    if not answer.is_success and isinstance(said, dict):
        raise from_problem({**said, "status": answer.status_code})
    if not answer.is_success or (said is None and answer.text.strip() != "null"):
        what = "" if not answer.is_success else ", which is no JSON"
        raise Failed(f"Service '{name}' answered {answer.status_code}: {answer.text[:500]}{what}")
    print_json(said)


def _url(api: Client, team: str, name: str, wait: bool) -> str:
    from rayplane.client.sdk import why
    from rayplane.errors import Unavailable

    found = api.services.wait(team, name) if wait else api.services.get(team, name)
    published = found.status.get("url")
    if not published:
        raise Unavailable(
            f"Service '{team}/{name}' is {found.status.get('phase', 'Pending')}: {why(found) or 'it has no URL yet'}.",
            remedy="Wait until it is Ready.",
        )
    return str(published)


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
