"""`rayplane audit`: who did what on the platform or in a team, and who was refused what."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from itertools import islice
from typing import Annotated, Any

import typer

from rayplane.client.cli.output import Format, Output, client, print_json, print_json_line, print_table, say
from rayplane.text import printable

EVERY = 2.0
"""Seconds between two polls for new entries."""

Entry = dict[str, Any]


def audit(
    team: Annotated[
        str | None, typer.Option("--team", help="Only this team's log; default: all logs, for admins.")
    ] = None,
    since: Annotated[str | None, typer.Option(help="Only entries newer than this: 1h or 14d.")] = None,
    action: Annotated[
        str | None, typer.Option(help="Only this action, such as apply, submit, suspend, rotate or refuse.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="The most entries to show: the newest ones.")] = 100,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new entries until interrupted.")] = False,
    output: Output = None,
) -> None:
    """Show the audit log: who did what, and who was refused what. Newest entries first; with --follow, last."""
    begin = _instant(since)
    with client() as api:

        def newest() -> Iterator[Entry]:
            return api.audit(team, since=begin, action=action)

        entries = list(islice(newest(), limit))
        if follow:
            _print_each(_follow(entries[::-1], newest), output)
        elif output is Format.JSON:
            print_json(entries)
        else:
            print_table(["TIME", "WHO", "ACTION", "TEAM", "WHAT", "DETAIL"], [_row(entry) for entry in entries])


def _follow(first: list[Entry], newest: Callable[[], Iterator[Entry]]) -> Iterator[Entry]:
    """Yield each entry once, oldest first, polling for new ones forever."""
    last = 0
    for entry in first:
        last = max(last, int(entry["id"]))
        yield entry
    while True:
        time.sleep(EVERY)
        new = []
        for entry in newest():
            if int(entry["id"]) <= last:
                break
            new.append(entry)
        for entry in reversed(new):
            last = max(last, int(entry["id"]))
            yield entry


def _print_each(entries: Iterable[Entry], output: Format | None) -> None:
    for entry in entries:
        if output is Format.JSON:
            print_json_line(entry)
        else:
            say(printable("  ".join(_row(entry))), at_once=True)


def _row(entry: Entry) -> list[str]:
    what = f"{entry['kind']} {entry['name']}".strip()
    at = datetime.fromisoformat(str(entry["time"])).isoformat(timespec="seconds")
    return [at, entry["principal"] or "-", entry["action"], entry["team"] or "-", what, _detail(entry)]


def _detail(entry: Entry) -> str:
    detail = dict(entry.get("detail") or {})
    if entry["action"] == "refuse":
        times = f" {detail.get('count')} times" if detail.get("count", 1) != 1 else ""
        return (
            f"{detail.get('status')} {detail.get('reason')} from {detail.get('address') or '-'}{times}: "
            f"{detail.get('method')} {detail.get('path')}"
        )
    text = ", ".join(f"{key}={value}" for key, value in detail.items())
    return text if len(text) <= 120 else f"{text[:117]}..."


def _instant(since: str | None) -> datetime | None:
    """The instant that lies duration ``since`` in the past. Raises InvalidInput if that is no duration."""
    from rayplane.errors import InvalidInput
    from rayplane.nouns.base import parse_duration, utcnow

    if since is None:
        return None
    try:
        return utcnow() - timedelta(seconds=parse_duration(since))
    except ValueError as exc:
        raise InvalidInput(f"--since: {exc}.", remedy="Write it as 30m, 1h or 14d.") from exc
