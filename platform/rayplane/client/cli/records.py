"""`rayplane lineage` and `rayplane leases`: the append-only records."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from rayplane.client.cli.output import Format, Output, TeamOption, client, print_json, print_table, seconds, team_of


class Direction(StrEnum):
    """Direction in which lineage is followed."""

    UP = "up"
    DOWN = "down"


def lineage(
    node: Annotated[str, typer.Argument(help="Such as model:flight-delay/1 or dataset:flights@3f2a...")],
    direction: Annotated[
        Direction, typer.Option(help="up: what it came from; down: what came from it.")
    ] = Direction.UP,
    team: TeamOption = None,
    output: Output = None,
) -> None:
    """Show what a node came from, or what came from it."""
    with client() as api:
        edges = api.lineage(team_of(api, team), node, "up" if direction is Direction.UP else "down")
    if output is Format.JSON:
        print_json([edge.model_dump(mode="json") for edge in edges])
        return
    print_table(["SOURCE", "TARGET"], [[edge.source, edge.target] for edge in edges])


def leases(
    open_only: Annotated[bool, typer.Option("--open", help="Only compute that is held now.")] = False,
    team: TeamOption = None,
    output: Output = None,
) -> None:
    """Show the ledger: compute that a team held or holds."""
    from rayplane.nouns.base import utcnow

    with client() as api:
        listed = api.leases(team_of(api, team), open_only=open_only)
    if output is Format.JSON:
        print_json([lease.model_dump(mode="json") for lease in listed])
        return
    rows = [
        [
            lease.cluster,
            f"{lease.cpu:g}",
            f"{lease.memory / 2**30:.1f}Gi",
            f"{lease.gpu:g}",
            lease.started_at.isoformat(timespec="seconds"),
            seconds(((lease.ended_at or utcnow()) - lease.started_at).total_seconds()),
            "open" if lease.ended_at is None else "closed",
        ]
        for lease in listed
    ]
    print_table(["CLUSTER", "CPU", "MEMORY", "GPU", "STARTED", "HELD", "STATE"], rows)
