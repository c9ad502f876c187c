"""`rayplane team`: the common verbs, and a deletion that says whether the team's data is archived or purged."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from rayplane.client.cli.noun import NameArgument, group
from rayplane.client.cli.output import Format, Output, client, note, print_json
from rayplane.nouns import TEAM
from rayplane.nouns.base import Object
from rayplane.nouns.team import TeamStatus
from rayplane.storage import layout


class DataOption(StrEnum):
    """Choice for a deleted team's data."""

    ARCHIVE = "archive"
    PURGE = "purge"


app = group(TEAM, delete=False)


@app.command(
    "delete", help="Delete it and its resources on the backends, archive or purge its data, and wait until it is gone."
)
def delete(
    name: NameArgument,
    data: Annotated[
        DataOption | None,
        typer.Option(
            help="Keep its data where a new team of this name can't reach it (the default), or delete it for good."
        ),
    ] = None,
    wait: Annotated[bool, typer.Option(help="Wait until it is gone.")] = True,
    output: Output = None,
) -> None:
    """Delete a team. Before waiting, say whether its data is archived or purged."""
    with client() as api:
        gone = api.teams.delete(name, data=None if data is None else data.value)
        outcome = fate(gone)
        if output is not Format.JSON:
            note(outcome)
        if wait:
            api.teams.wait_deleted("", name, uid=gone.metadata.uid)
        if output is Format.JSON:
            print_json(gone.model_dump(mode="json"))
        else:
            note(f"team {name} {'deleted' if wait else 'is being deleted'}")


def fate(team: Object) -> str:
    """Sentences that say how the data of a team that is being deleted is archived or purged. Pure."""
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
