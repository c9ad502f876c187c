"""The common verbs of a noun's group: list, get, why, delete."""

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

NameArgument = Annotated[str, typer.Argument(help="Its name.", show_default=False)]


def group(plural: str, help_: str, *, delete: bool = True) -> typer.Typer:
    """A command group with the noun's common verbs. With ``delete=False`` the caller adds its own ``delete``."""
    app = typer.Typer(help=help_, no_args_is_help=True)
    _add_list(app, plural)
    _add_get(app, plural)
    _add_why(app, plural)
    if delete:
        _add_delete(app, plural)
    return app


def _add_list(app: typer.Typer, plural: str) -> None:
    @app.command("list", help=f"List {plural}.")
    def list_(
        team: TeamOption = None,
        label: Annotated[
            list[str] | None, typer.Option("--label", "-l", help="Only those with this label (k=v).")
        ] = None,
        output: Output = None,
    ) -> None:
        with client() as api:
            noun = getattr(api, plural)
            team_name = team_of(api, team) if noun.type.team_scoped else ""
            objects = noun.list(team_name, labels=pairs(label or [], "--label"))
            print_objects(noun.type, objects, output or Format.TABLE)


def _add_get(app: typer.Typer, plural: str) -> None:
    @app.command("get", help="Show one with its spec and status.")
    def get(name: NameArgument, team: TeamOption = None, output: Output = None) -> None:
        with client() as api:
            noun = getattr(api, plural)
            team_name = team_of(api, team) if noun.type.team_scoped else ""
            print_object(noun.get(team_name, name), output or Format.TABLE)


def _add_why(app: typer.Typer, plural: str) -> None:
    @app.command("why", help="Say why it is not as wanted, and what to do.")
    def why(name: NameArgument, team: TeamOption = None, output: Output = None) -> None:
        with client() as api:
            noun = getattr(api, plural)
            team_name = team_of(api, team) if noun.type.team_scoped else ""
            print_explanation(noun.why(team_name, name), output or Format.TABLE)


def _add_delete(app: typer.Typer, plural: str) -> None:
    @app.command("delete", help="Delete it, and wait until everything created for it is gone.")
    def delete(
        name: NameArgument,
        team: TeamOption = None,
        wait: Annotated[bool, typer.Option(help="Wait until it is gone.")] = True,
        output: Output = None,
    ) -> None:
        with client() as api:
            noun = getattr(api, plural)
            team_name = team_of(api, team) if noun.type.team_scoped else ""
            gone = noun.delete(team_name, name)
            if wait:
                noun.wait_deleted(team_name, name, uid=gone.metadata.uid)
            if output is Format.JSON:
                print_json(gone.model_dump(mode="json"))
            else:
                note(f"{noun.type.singular} {name} {'deleted' if wait else 'is being deleted'}")
