"""`rayplane cluster`: create, suspend, resume, extend, what was used, and where a cluster is reached."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from rayplane.client.cli.noun import NameArgument, group
from rayplane.client.cli.output import (
    Format,
    Output,
    TeamOption,
    client,
    note,
    print_json,
    print_object,
    print_table,
    say,
    team_of,
)

if TYPE_CHECKING:
    from rayplane.client.sdk import Client
    from rayplane.nouns.base import Object

app = group("clusters", "Ray clusters of a team.")


Wait = Annotated[bool, typer.Option(help="Wait until it is so.")]


@app.command("apply", hidden=True)
@app.command()
def create(
    name: NameArgument,
    size: Annotated[str | None, typer.Option(help="A size of the team.", show_default="small")] = None,
    workers: Annotated[
        str | None,
        typer.Option(
            metavar="N|N..M", help="Worker nodes beside the head: 4, or 0..4 as the work needs.", show_default="0"
        ),
    ] = None,
    idle_timeout: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Suspend it when nobody used it for so long: 30m.", show_default="the team's"
        ),
    ] = None,
    delete_after_idle: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Delete it when it was suspended so for so long.", show_default="the team's"),
    ] = None,
    max_lifetime: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Delete it, whatever it does, when it is so old: 8h.", show_default="the team's"
        ),
    ] = None,
    backend: Annotated[str | None, typer.Option(help="Where it runs.", show_default="the team's")] = None,
    wait: Annotated[bool, typer.Option(help="Wait until it is ready.")] = True,
    team: TeamOption = None,
    output: Output = None,
) -> None:
    """Make a cluster; one that is there is changed in what is asked alone, and resumed if it was idle."""
    from rayplane.nouns.base import parse
    from rayplane.nouns.cluster import ClusterSpec

    given = {
        "size": size,
        "workers": workers,
        "idle_timeout": idle_timeout,
        "delete_after_idle": delete_after_idle,
        "max_lifetime": max_lifetime,
        "backend": backend,
    }
    spec = {field: value for field, value in given.items() if value is not None}
    parse(ClusterSpec, spec, "cluster")  # a slip is told here, before anything is sent
    with client() as api:
        of = team_of(api, team)
        made = _lay_over(api, of, name, spec)
        if wait:
            note(f"cluster {of}/{name} is starting")
            made = api.clusters.reach(of, name)
        _tell(made, output)


def _lay_over(api: Client, team: str, name: str, given: Mapping[str, object]) -> Object:
    """Make the cluster; of one that is there, change only what is given, and resume it if the platform suspended it.

    What a person suspended stays suspended.
    """
    from rayplane.errors import NotFound, PreconditionFailed
    from rayplane.nouns.cluster import ClusterStatus

    while True:
        try:
            found = api.clusters.get(team, name)
        except NotFound:
            return api.clusters.apply(team, name, given)
        spec, labels = {**found.spec, **given}, found.metadata.labels
        try:
            made = api.clusters.apply(team, name, spec, labels, if_match=found.etag)
        except PreconditionFailed:
            continue  # it, or its status alone, was written since: look at it again
        idle = ClusterStatus.model_validate(made.status).suspension is not None
        return api.clusters.resume(team, name) if idle and not made.spec.get("suspended") else made


@app.command()
def suspend(name: NameArgument, wait: Wait = True, team: TeamOption = None, output: Output = None) -> None:
    """Take a cluster's compute back until somebody resumes it. What runs on it ends."""
    with client() as api:
        of = team_of(api, team)
        found = api.clusters.suspend(of, name)
        _tell(api.clusters.wait(of, name, phases=("Suspended",)) if wait else found, output)


@app.command()
def resume(name: NameArgument, wait: Wait = True, team: TeamOption = None, output: Output = None) -> None:
    """Give a suspended cluster its compute again, whoever suspended it."""
    with client() as api:
        of = team_of(api, team)
        found = api.clusters.resume(of, name)
        _tell(api.clusters.wait(of, name, phases=("Ready",)) if wait else found, output)


@app.command()
def extend(
    name: NameArgument,
    duration: Annotated[str, typer.Argument(metavar="TIME", help="How long from now: 2h.", show_default=False)],
    team: TeamOption = None,
    output: Output = None,
) -> None:
    """Keep a cluster for so long from now, however idle or old it is."""
    from rayplane.errors import InvalidInput
    from rayplane.nouns.base import parse_duration

    try:
        seconds = parse_duration(duration)
    except ValueError as exc:
        raise InvalidInput(f"{exc}.", remedy="Say how long from now, such as 2h.") from exc
    with client() as api:
        of = team_of(api, team)
        found = api.clusters.extend(of, name, seconds)
    if output is Format.JSON:
        print_object(found, Format.JSON)
        return
    for field, what in (("kept_until", "is not suspended for idleness"), ("lives_until", "lives")):
        if found.status.get(field):
            note(f"cluster {of}/{name} {what} until {found.status[field]} at least")


@app.command()
def usage(team: TeamOption = None, output: Output = None) -> None:
    """Show what each cluster of the team has held, from the ledger: hours of nodes, cores, memory, GPUs."""
    with client() as api:
        found = api.usage(team_of(api, team))
    if output is Format.JSON:
        print_json([used.model_dump(mode="json") for used in found])
        return
    rows = [
        [
            used.cluster,
            used.cluster_uid[:8],
            f"{used.node_seconds / 3600:.2f}",
            f"{used.core_seconds / 3600:.2f}",
            f"{used.gib_seconds / 3600:.2f}",
            f"{used.gpu_seconds / 3600:.2f}",
            str(used.open),
        ]
        for used in found
    ]
    print_table(["CLUSTER", "UID", "NODE-HOURS", "CORE-HOURS", "GIB-HOURS", "GPU-HOURS", "NODES NOW"], rows)


@app.command()
def address(
    name: NameArgument,
    wait: Annotated[bool, typer.Option(help="Wait until it is ready.")] = True,
    jobs: Annotated[bool, typer.Option("--jobs", help="For 'ray job': the gateway's address and your token.")] = False,
    team: TeamOption = None,
    output: Output = None,
) -> None:
    """Print how to reach a cluster, as exports for a shell.

    After eval "$(rayplane cluster address dev)" a Python process joins the cluster with ray.init(); after
    eval "$(rayplane cluster address dev --jobs)" stock 'ray job submit' goes through the gateway to it.
    """
    from rayplane.client.sdk import why
    from rayplane.errors import Unavailable
    from rayplane.nouns.cluster import ClusterStatus

    with client() as api:
        of = team_of(api, team)
        # The gateway takes jobs for a cluster that is not ready yet, and resumes one that was idle for them.
        found = api.clusters.reach(of, name) if wait and not jobs else api.clusters.get(of, name)
        jobs_values: dict[str, str | None] = {
            "RAY_API_SERVER_ADDRESS": f"{api.url}/{of}/{name}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(api.token_path),
        }
        if jobs:
            _print({"jobs": jobs_values}, output)
            return
        endpoint = ClusterStatus.model_validate(found.status).endpoint
        if endpoint is None:
            raise Unavailable(
                f"Cluster '{of}/{name}' is {found.status.get('phase', 'Pending')}: {why(found) or 'it is not ready'}.",
                remedy="Wait until it is Ready.",
            )
        client_values = {
            "RAY_ADDRESS": endpoint.client_address,
            "RAY_AUTH_MODE": "token" if endpoint.token_path else None,
            "RAY_AUTH_TOKEN_PATH": endpoint.token_path,
        }
    _print({"client": client_values, "jobs": jobs_values}, output)


def _tell(found: Object, output: Format | None) -> None:
    if output is Format.JSON:
        print_object(found, Format.JSON)
        return
    where = f"{found.metadata.team}/{found.metadata.name}"
    note(f"cluster {where} is {found.status.get('phase', 'Pending')}")


def _print(ways: Mapping[str, Mapping[str, str | None]], output: Format | None) -> None:
    """All ways as JSON, or the first as exports."""
    if output is Format.JSON:
        print_json(ways)
        return
    for key, value in next(iter(ways.values())).items():
        if value is not None:
            say(f"export {key}={shlex.quote(value)}")
