"""The common verbs of a noun's group: list, get, why, delete.

The groups of nouns without verbs of their own are attributes of this module, each by its noun's name, such as
``model``.
"""

from __future__ import annotations

from typing import Annotated

import typer

from rayplane.client.cli.output import (
    Format,
    Output,
    TeamOption,
    client,
    note,
    pairs,
    print_explanation,
    print_json,
    print_object,
    print_objects,
    team_of,
)
from rayplane.nouns import NOUNS
from rayplane.nouns.noun_type import AnyNoun

NameArgument = Annotated[str, typer.Argument(help="Its name.", show_default=False)]


def group(noun: AnyNoun, *, delete: bool = True) -> typer.Typer:
    """A command group with the noun's common verbs. With ``delete=False`` the caller adds its own ``delete``."""
    app = typer.Typer(help=noun.help, no_args_is_help=True)
    _add_list(app, noun)
    _add_get(app, noun)
    _add_why(app, noun)
    if delete:
        _add_delete(app, noun)
    return app


def __getattr__(name: str) -> typer.Typer:
    for noun in NOUNS:
        if noun.singular == name:
            return group(noun)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _add_list(app: typer.Typer, noun: AnyNoun) -> None:
    @app.command("list", help=f"List {noun.plural}.")
    def list_(
        team: TeamOption = None,
        label: Annotated[
            list[str] | None, typer.Option("--label", "-l", help="Only those with this label (k=v).")
        ] = None,
        output: Output = None,
    ) -> None:
        with client() as api:
            verbs = api.noun(noun)
            team_name = team_of(api, team) if noun.team_scoped else ""
            objects = verbs.list(team_name, labels=pairs(label or [], "--label"))
            print_objects(noun, objects, output or Format.TABLE)


def _add_get(app: typer.Typer, noun: AnyNoun) -> None:
    @app.command("get", help="Show one with its spec and status.")
    def get(name: NameArgument, team: TeamOption = None, output: Output = None) -> None:
        with client() as api:
            verbs = api.noun(noun)
            team_name = team_of(api, team) if noun.team_scoped else ""
            print_object(verbs.get(team_name, name), output or Format.TABLE)


def _add_why(app: typer.Typer, noun: AnyNoun) -> None:
    @app.command("why", help="Say why it is not as wanted, and what to do.")
    def why(name: NameArgument, team: TeamOption = None, output: Output = None) -> None:
        with client() as api:
            verbs = api.noun(noun)
            team_name = team_of(api, team) if noun.team_scoped else ""
            print_explanation(verbs.why(team_name, name), output or Format.TABLE)


def _add_delete(app: typer.Typer, noun: AnyNoun) -> None:
    @app.command("delete", help="Delete it, and wait until everything created for it is gone.")
    def delete(
        name: NameArgument,
        team: TeamOption = None,
        wait: Annotated[bool, typer.Option(help="Wait until it is gone.")] = True,
        output: Output = None,
    ) -> None:
        with client() as api:
            verbs = api.noun(noun)
            team_name = team_of(api, team) if noun.team_scoped else ""
            gone = verbs.delete(team_name, name)
            if wait:
                verbs.wait_deleted(team_name, name, uid=gone.metadata.uid)
            if output is Format.JSON:
                print_json(gone.model_dump(mode="json"))
            else:
                note(f"{noun.singular} {name} {'deleted' if wait else 'is being deleted'}")
