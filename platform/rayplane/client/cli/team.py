"""`rayplane team`: the common verbs; its deletion says what becomes of what the team has."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from rayplane.client.cli.noun import NameArgument, group
from rayplane.client.cli.output import Format, Output, client, note, print_json
from rayplane.nouns.base import Object
from rayplane.nouns.team import TeamStatus
from rayplane.storage import layout


class DataOption(StrEnum):
    """What becomes of a deleted team's data."""

    ARCHIVE = "archive"
    PURGE = "purge"


app = group("teams", "Who owns and pays.", delete=False)


@app.command("delete", help="Delete it and its place, archive or purge what it has, and wait until it is gone.")
def delete(
    name: NameArgument,
    data: Annotated[
        DataOption | None,
        typer.Option(help="Keep its data where no team of its name finds it (the default), or delete it for good."),
    ] = None,
    wait: Annotated[bool, typer.Option(help="Wait until it is gone.")] = True,
    output: Output = None,
) -> None:
    """Delete a team. Says before the wait what becomes of its data."""
    with client() as api:
        gone = api.teams.delete(name, data=None if data is None else data.value)
        told = fate(gone)
        if output is not Format.JSON:
            note(told)
        if wait:
            api.teams.wait_deleted("", name, uid=gone.metadata.uid)
        if output is Format.JSON:
            print_json(gone.model_dump(mode="json"))
        else:
            note(f"team {name} {'deleted' if wait else 'is being deleted'}")


def fate(team: Object) -> str:
    """What becomes of the data of a team that is being deleted, in one sentence. Pure."""
    status = TeamStatus.model_validate(team.status)
    if status.data == "purge":
        return (
            f"Team {team.metadata.name} goes with all its data. Its audit log and its leases stay, "
            f"as those of {status.archived_as}."
        )
    return (
        f"Team {team.metadata.name} goes, its data is archived: records as those of {status.archived_as}, "
        f"files in {layout.archive(status.archived_as or '')} of the storage root, "
        f"runs and models in MLflow's workspace {status.mlflow_workspace}."
    )
