"""Print commands' output: aligned tables for people, JSON for programs, errors on standard error.

Printed text may come from other users, so terminal control sequences (ANSI, OSC) are removed, except by
``job logs --raw``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayplane.text import PrintableStream, printable

if TYPE_CHECKING:
    from rayplane.client.sdk import Client
    from rayplane.errors import RayplaneError
    from rayplane.nouns.base import Object
    from rayplane.nouns.noun_type import AnyNoun
    from rayplane.nouns.why import Cause, Explanation


class Format(StrEnum):
    """Output format of a command."""

    TABLE = "table"
    JSON = "json"


class _Defaults:
    """Values of the options that precede the command's name."""

    output = Format.TABLE
    team: str | None = None


defaults = _Defaults()


def _format(value: Format | None) -> Format:
    return value or defaults.output


Output = Annotated[
    Format | None,
    typer.Option("-o", "--output", help="How to print.", callback=_format, show_default="table"),
]
TeamOption = Annotated[
    str | None,
    typer.Option("--team", envvar="RAYPLANE_TEAM", help="The team; default: the only one that there is."),
]


def client() -> Client:
    """A client for the gateway named by the environment or the home."""
    # Imported here, so that help and completion need not load the HTTP stack.
    from rayplane.client.sdk import Client

    return Client()


def team_of(api: Client, option: str | None) -> str:
    """The team to use: the named one, else the only one; raises InvalidInput if there is not exactly one."""
    from rayplane.errors import InvalidInput

    named = option or defaults.team or os.environ.get("RAYPLANE_TEAM")
    if named:
        return named
    names = [team.metadata.name for team in api.teams.list()]
    if len(names) == 1:
        return names[0]
    known = f"There are: {', '.join(names)}." if names else "There is none yet: make one with 'rayplane apply'."
    raise InvalidInput("No team is named.", remedy=f"Say --team, or set RAYPLANE_TEAM. {known}")


def print_json(value: Any) -> None:
    """Print one JSON document on standard output."""
    print(json.dumps(value, indent=2, default=str))


def print_json_line(value: Any) -> None:
    """Print one JSON document on a line of its own and flush: for output that continues later."""
    print(json.dumps(value, default=str), flush=True)


def say(text: str, *, end: str = "\n", at_once: bool = False) -> None:
    """Print one or more lines of output; ``at_once`` flushes, for output that continues later."""
    print(printable(text, lines=True), end=end, flush=at_once)


def print_log(pieces: Iterable[str], *, raw: bool = False, aside: bool = False) -> None:
    """Print a job's log as it arrives: ``raw`` keeps terminal control sequences, ``aside`` uses standard error."""
    out, stream = sys.stderr if aside else sys.stdout, PrintableStream()
    for piece in pieces:
        print(piece if raw else stream.add(piece), end="", file=out, flush=True)
    if not raw:
        print(stream.end(), end="", file=out, flush=True)


def print_objects(noun: AnyNoun, objects: Sequence[Object], output: Format) -> None:
    """Print objects as a table with the columns of their noun, or as a JSON array."""
    if output is Format.JSON:
        print_json([obj.model_dump(mode="json") for obj in objects])
        return
    rows = [[obj.metadata.name, *(cell(obj, path) for _, path in noun.columns), age(obj)] for obj in objects]
    print_table(["NAME", *(heading for heading, _ in noun.columns), "AGE"], rows)


def print_object(obj: Object, output: Format) -> None:
    """Print one object as JSON, or as YAML, which is easier to read."""
    if output is Format.JSON:
        print_json(obj.model_dump(mode="json"))
        return
    import yaml

    value = obj.model_dump(mode="json")
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    if printable(text, lines=True) != text:  # use YAML's own escapes, so that the output stays valid YAML
        text = yaml.safe_dump(value, sort_keys=False)
    print(text, end="")


def print_explanation(explanation: Explanation, output: Format) -> None:
    """Print an explanation: its sentence, then for each cause the remedy and the evidence."""
    if output is Format.JSON:
        print_json(explanation.model_dump(mode="json"))
        return
    say(explanation.sentence)
    for index, cause in enumerate(explanation.causes):
        if index:
            say(f"Also: {cause.sentence}")
        say(f"  do:   {cause.remedy}")
        if cause.certainty == "likely":
            say("  This is likely, not certain.")
        for line in clues(cause):
            say(f"  seen: {line}")


def clues(cause: Cause) -> list[str]:
    """The evidence for a cause: at most four lines, each cut to 200 characters of its message."""
    from rayplane.nouns.base import utcnow

    lines = []
    for clue in cause.evidence[:4]:
        times = f", {clue.count} times" if clue.count > 1 else ""
        ago = f", {seconds((utcnow() - clue.at).total_seconds())} ago" if clue.at is not None else ""
        text = " ".join(clue.message.split())
        lines.append(f"{clue.about} {clue.reason}{times}{ago}: {text[:200]}{'...' if len(text) > 200 else ''}")
    return lines


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print an aligned table. Cells are never cut, since another program may read them."""
    lines = [list(headings), *([printable(text) for text in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def cell(obj: Object, path: str) -> str:
    """The value at a dotted path of an object, formatted for a table cell."""
    value: Any = obj.model_dump(mode="json")
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if value is None or value in ({}, []):
        return "-"
    if isinstance(value, dict):
        return ",".join(f"{k}={v}" for k, v in value.items())
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value)


def age(obj: Object) -> str:
    """Time since the object was created, in its largest unit."""
    from rayplane.nouns.base import utcnow

    if obj.metadata.created_at is None:
        return "-"
    return seconds((utcnow() - obj.metadata.created_at).total_seconds())


def seconds(value: float) -> str:
    """Format a duration in one unit: ``90`` seconds as ``90s``, two hours as ``2h``."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if value >= 2 * size:
            return f"{value / size:.0f}{unit}"
    return f"{value:.0f}s"


def note(text: str) -> None:
    """Print a message to the user on standard error, which keeps standard output to the command's result."""
    print(printable(text, lines=True), file=sys.stderr, flush=True)


def pairs(values: Sequence[str], option: str) -> dict[str, str]:
    """Parse the values ``["k=v", ...]`` of a repeated option as a mapping; raises InvalidInput."""
    from rayplane.errors import InvalidInput

    mapping = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not (key and equals):
            raise InvalidInput(f"{option} '{value}' is not KEY=VALUE.", remedy=f"Write it as {option} key=value.")
        mapping[key] = text
    return mapping


def run(main: Callable[[], object], argv: Sequence[str]) -> int:
    """Run ``main`` and return the exit code; print a RayplaneError on standard error, as JSON if ``argv`` says so."""
    from rayplane.errors import RayplaneError

    try:
        main()
    except RayplaneError as error:
        _print_error(error, wants_json(argv))
        return error.exit_code
    return 0


@contextmanager
def quiet_ends() -> Iterator[None]:
    """End a command as a shell expects: with 130 if it is interrupted, with 0 if its reader closes the pipe (`| head`).

    Used inside typer's own handling, which prints nothing for the former and reports the latter as an error.
    """
    try:
        try:
            yield
        except typer.Exit:
            sys.stdout.flush()
            raise
        sys.stdout.flush()
    except KeyboardInterrupt:
        note("Interrupted.")
        raise typer.Exit(130) from None
    except BrokenPipeError:
        # Otherwise the interpreter reports an error when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit from None


def wants_json(argv: Sequence[str]) -> bool:
    """True if these arguments ask for JSON; used when they could not be parsed."""
    before = list(argv[: argv.index("--")] if "--" in argv else argv)
    joined = {"-ojson", "-o=json", "--output=json"}
    separate = (a in ("-o", "--output") and b == "json" for a, b in pairwise(before))
    return any(arg in joined for arg in before) or any(separate)


def _print_error(error: RayplaneError, as_json: bool) -> None:
    if as_json:
        print(json.dumps(error.to_problem(), default=str), file=sys.stderr)
        return
    note(f"Error: {error.detail}")
    if error.remedy:
        note(f"  {error.remedy}")
