"""`rayplane pipeline`: run a pipeline and watch its steps."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayplane.client.cli.noun import NameArgument, group
from rayplane.client.cli.output import (
    Format,
    Output,
    TeamOption,
    client,
    note,
    pairs,
    print_object,
    print_objects,
    say,
    seconds,
    team_of,
)
from rayplane.nouns import PIPELINE

if TYPE_CHECKING:
    from rayplane.client.sdk import Progress
    from rayplane.nouns.base import Object
    from rayplane.nouns.pipeline import StepRun

app = group(PIPELINE)


@app.command()
def run(
    name: NameArgument,
    param: Annotated[list[str] | None, typer.Option(help="key=value, overriding the pipeline's default.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Run every step, even if its result is cached.")] = False,
    wait: Annotated[bool, typer.Option(help="Watch the steps; exit 0 only if the run succeeds.")] = True,
    team: TeamOption = None,
    output: Output = None,
) -> None:
    """Run a pipeline."""
    from rayplane.client.sdk import why
    from rayplane.errors import Failed

    with client() as api:
        team_name = team_of(api, team)
        started = api.pipelines.run(team_name, name, pairs(param or [], "--param"), force)
        note(f"run {team_name}/{started.metadata.name} started")
        if not wait:
            print_object(started, Format.JSON) if output is Format.JSON else say(started.metadata.name)
            return
        with progress() as show_progress:
            ended = api.pipelines.wait_run(team_name, name, started.metadata.name, progress=show_progress)
        if output is Format.JSON:
            print_object(ended, Format.JSON)
        phase = str(ended.status.get("phase"))
        if phase != "Succeeded":
            raise Failed(
                f"Run '{team_name}/{ended.metadata.name}' {phase.lower()}: {why(ended) or 'no reason was given'}.",
                remedy="Read the failed step's log with 'rayplane job logs <job>'.",
            )
        note(f"run {team_name}/{ended.metadata.name} succeeded")


@app.command()
def runs(name: NameArgument, team: TeamOption = None, output: Output = None) -> None:
    """List a pipeline's runs, oldest first."""
    from rayplane.nouns import RUN

    with client() as api:
        print_objects(RUN, api.pipelines.runs(team_of(api, team), name), output or Format.TABLE)


@app.command()
def stop(
    name: NameArgument,
    run_name: Annotated[str, typer.Argument(metavar="RUN", help="The run's name.", show_default=False)],
    team: TeamOption = None,
    output: Output = None,
) -> None:
    """Ask a run to stop; its running steps are stopped, too."""
    with client() as api:
        stopped = api.pipelines.stop_run(team_of(api, team), name, run_name)
    if output is Format.JSON:
        print_object(stopped, Format.JSON)
    else:
        note(f"run {run_name} is asked to stop")


@contextmanager
def progress() -> Iterator[Progress]:
    """Yield a callback that shows a run's steps on standard error: redrawn on a terminal, else a line per change."""
    if not sys.stderr.isatty():
        yield _Lines().show
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), refresh_per_second=4) as live:
        yield lambda obj: live.update(_table(obj))


class _Lines:
    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def show(self, obj: Object) -> None:
        for step in steps(obj):
            if step.phase != self._known.get(step.name, "Pending"):
                note(f"  {step.name:<24} {describe(step)}")
            self._known[step.name] = step.phase


def steps(obj: Object) -> list[StepRun]:
    """The steps of a run, in the order of its status."""
    from rayplane.nouns.pipeline import StepRun

    return [StepRun.model_validate(step) for step in obj.status.get("steps", [])]


def describe(step: StepRun) -> str:
    """A step's phase, duration, job and message on one line."""
    from rayplane.nouns.base import utcnow

    took = step.seconds
    if step.phase == "Running" and step.started_at is not None:
        took = (utcnow() - step.started_at).total_seconds()
    job = f"  job {step.job}" if step.job and step.phase in ("Running", "Failed") else ""
    message = f"  {step.message}" if step.message else ""
    return f"{step.phase:<10}{seconds(took) if took >= 1 else ''}{job}{message}".rstrip()


_COLORS = {"Succeeded": "green", "Cached": "cyan", "Failed": "red", "Running": "yellow", "Skipped": "dim"}


def _table(obj: Object) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for step in steps(obj):
        table.add_row(step.name, Text(describe(step), style=_COLORS.get(step.phase, "")))
    return table
