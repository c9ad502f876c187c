"""`rayplane`: the table of commands, each imported only when it is called, and one handler for all errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from rayplane import plugins
from rayplane.client.cli import output as shown
from rayplane.client.cli.output import Format, TeamOption
from rayplane.nouns import NOUNS
from rayplane.nouns.noun_type import AnyNoun

_PACKAGE = "rayplane.client.cli"


def _group_of(noun: AnyNoun) -> str:
    """The code of a noun's command group: of its own module if it has verbs of its own, else of its common verbs."""
    own = Path(__file__).with_name(f"{noun.singular}.py").is_file()
    return f"{_PACKAGE}.{noun.singular}:app" if own else f"{_PACKAGE}.noun:{noun.singular}"


COMMANDS: dict[str, tuple[str, str]] = {
    "up": (f"{_PACKAGE}.up:up", "Start the local platform, or repair it."),
    "status": (f"{_PACKAGE}.up:status", "Show the local platform's processes and URLs."),
    "down": (f"{_PACKAGE}.up:down", "Stop the local platform; leave no process behind."),
    "backup": (f"{_PACKAGE}.backup:backup", "Write a backup of the platform, which may be running."),
    "restore": (f"{_PACKAGE}.backup:restore", "Restore a home from a backup, or compare the two."),
    "quickstart": (f"{_PACKAGE}.quickstart:quickstart", "Go from raw data to a served model on the flights example."),
    "apply": (f"{_PACKAGE}.apply:apply", "Create or change objects as YAML documents say."),
    "plan": (f"{_PACKAGE}.plan:plan", "Say what applying YAML documents would change, forbid and cost."),
    "why": (f"{_PACKAGE}.why:why", "Say why something is not as wanted, and what to do."),
    **{noun.singular: (_group_of(noun), noun.help) for noun in NOUNS},
    "lineage": (f"{_PACKAGE}.records:lineage", "What a node came from, or what came from it."),
    "leases": (f"{_PACKAGE}.records:leases", "The ledger of compute."),
    "token": (f"{_PACKAGE}.rotation:token", "The local user's token: rotate it."),
    "secrets": (f"{_PACKAGE}.rotation:secrets", "The platform's own secrets: rotate them."),
    "audit": (f"{_PACKAGE}.audit:audit", "Who did what, and who was refused what."),
    "gateway": (f"{_PACKAGE}.main:gateway", "Run the gateway in the foreground."),
}
"""Command -> its function or group, and its line in the help. Only the called command is imported."""


class Lazy(TyperGroup):
    """Lists all commands from the table, and imports a command only when it is called or completed."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The commands in the table's order."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A placeholder with the command's help line; None for an unknown command."""
        if cmd_name not in COMMANDS:
            return None
        return TyperCommand(cmd_name, help=COMMANDS[cmd_name][1])

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        with shown.quiet_ends():
            return super().invoke(ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Import the command; for an unknown one typer raises its own error, which suggests the nearest."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, _load(name) if name in COMMANDS else command, rest


app = typer.Typer(
    cls=Lazy,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        shown.say(f"rayplane {version('rayplane')}")
        raise typer.Exit


@app.callback()
def root(
    output: Annotated[Format, typer.Option("-o", "--output", help="How commands print.")] = Format.TABLE,
    team: TeamOption = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """One platform for machine learning on Ray."""
    shown.defaults.output, shown.defaults.team = output, team


def main() -> None:
    """The console script: exits with the code of the error, 0 if there was none."""
    # For invalid options typer itself prints an error and exits with 2.
    sys.exit(shown.run(app, sys.argv[1:]))


def gateway() -> None:
    """Run the gateway in the foreground; its settings are RAYPLANE_* variables."""
    # exec, since the client does not import the control plane's packages.
    os.execv(sys.executable, [sys.executable, "-m", "rayplane.gateway"])  # noqa: S606


def _load(name: str) -> Any:
    target = plugins.resolve(COMMANDS[name][0])
    if isinstance(target, typer.Typer):
        group = typer.main.get_group(target)
        group.name = name
        return group
    single = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    function: Callable[..., Any] = target
    single.command(name)(function)
    command = typer.main.get_command(single)
    command.name = name
    return command
