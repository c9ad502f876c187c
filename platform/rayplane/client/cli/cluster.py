"""`rayplane cluster`: create, suspend, resume and extend clusters, show their usage and addresses."""

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
from rayplane.nouns import CLUSTER

if TYPE_CHECKING:
    from rayplane.client.sdk import Client
    from rayplane.nouns.base import Object

app = group(CLUSTER)


Wait = Annotated[bool, typer.Option(help="Wait until it is done.")]


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
        typer.Option(metavar="TIME", help="Suspend it after so long without use: 30m.", show_default="the team's"),
    ] = None,
    delete_after_idle: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Delete it after so long suspended for idleness.", show_default="the team's"),
    ] = None,
    max_lifetime: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Delete it at this age, even if it is in use: 8h.", show_default="the team's"
        ),
    ] = None,
    backend: Annotated[str | None, typer.Option(help="Where it runs.", show_default="the team's")] = None,
    wait: Annotated[bool, typer.Option(help="Wait until it is ready.")] = True,
    team: TeamOption = None,
    output: Output = None,
) -> None:
    """Create a cluster. If it exists, change only the given options, and resume it if it was suspended for idleness."""
    from rayplane.nouns.base import parse
    from rayplane.nouns.cluster import ClusterSpec

    options = {
        "size": size,
        "workers": workers,
        "idle_timeout": idle_timeout,
        "delete_after_idle": delete_after_idle,
        "max_lifetime": max_lifetime,
        "backend": backend,
    }
    spec = {field: value for field, value in options.items() if value is not None}
    parse(ClusterSpec, spec, "cluster")  # reports a mistake before anything is sent
    with client() as api:
        team_name = team_of(api, team)
        cluster = _create_or_change(api, team_name, name, spec)
        if wait:
            note(f"cluster {team_name}/{name} is starting")
            cluster = api.clusters.reach(team_name, name)
        _print_phase(cluster, output)


def _create_or_change(api: Client, team: str, name: str, changes: Mapping[str, object]) -> Object:
    """Create the cluster; if it exists, change only the given fields, and resume it if the platform suspended it.

    A cluster that a user suspended stays suspended.
    """
    from rayplane.errors import NotFound, PreconditionFailed
    from rayplane.nouns.cluster import ClusterStatus

    while True:
        try:
            existing = api.clusters.get(team, name)
        except NotFound:
            return api.clusters.apply(team, name, changes)
        spec, labels = {**existing.spec, **changes}, existing.metadata.labels
        try:
            changed = api.clusters.apply(team, name, spec, labels, if_match=existing.etag)
        except PreconditionFailed:
            continue  # the spec or status changed since the read: read again
        is_idle = ClusterStatus.model_validate(changed.status).suspension is not None
        return api.clusters.resume(team, name) if is_idle and not changed.spec.get("suspended") else changed


@app.command()
def suspend(name: NameArgument, wait: Wait = True, team: TeamOption = None, output: Output = None) -> None:
    """Release a cluster's compute until a user resumes it. Work that runs on it ends."""
    with client() as api:
        team_name = team_of(api, team)
        cluster = api.clusters.suspend(team_name, name)
        _print_phase(api.clusters.wait(team_name, name, phases=("Suspended",)) if wait else cluster, output)


@app.command()
def resume(name: NameArgument, wait: Wait = True, team: TeamOption = None, output: Output = None) -> None:
    """Resume a suspended cluster, whether a user or the platform suspended it."""
    with client() as api:
        team_name = team_of(api, team)
        cluster = api.clusters.resume(team_name, name)
        _print_phase(api.clusters.wait(team_name, name, phases=("Ready",)) if wait else cluster, output)


@app.command()
def extend(
    name: NameArgument,
    duration: Annotated[str, typer.Argument(metavar="TIME", help="How long from now: 2h.", show_default=False)],
    team: TeamOption = None,
    output: Output = None,
) -> None:
    """Keep a cluster for a time from now, even if it is idle or old."""
    from rayplane.errors import InvalidInput
    from rayplane.nouns.base import parse_duration

    try:
        seconds = parse_duration(duration)
    except ValueError as exc:
        raise InvalidInput(f"{exc}.", remedy="Say how long from now, such as 2h.") from exc
    with client() as api:
        team_name = team_of(api, team)
        cluster = api.clusters.extend(team_name, name, seconds)
    if output is Format.JSON:
        print_object(cluster, Format.JSON)
        return
    for field, what in (("kept_until", "is not suspended for idleness"), ("lives_until", "lives")):
        if cluster.status.get(field):
            note(f"cluster {team_name}/{name} {what} until {cluster.status[field]} at least")


@app.command()
def usage(team: TeamOption = None, output: Output = None) -> None:
    """Show what each cluster of the team has held, from the ledger: hours of nodes, cores, memory, GPUs."""
    with client() as api:
        used_clusters = api.usage(team_of(api, team))
    if output is Format.JSON:
        print_json([used.model_dump(mode="json") for used in used_clusters])
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
        for used in used_clusters
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
        team_name = team_of(api, team)
        # For --jobs the cluster need not be ready: the gateway accepts jobs and resumes an idle cluster for them.
        obj = api.clusters.reach(team_name, name) if wait and not jobs else api.clusters.get(team_name, name)
        jobs_values: dict[str, str | None] = {
            "RAY_API_SERVER_ADDRESS": f"{api.url}/{team_name}/{name}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(api.token_path),
        }
        if jobs:
            _print({"jobs": jobs_values}, output)
            return
        endpoint = ClusterStatus.model_validate(obj.status).endpoint
        if endpoint is None:
            raise Unavailable(
                f"Cluster '{team_name}/{name}' is {obj.status.get('phase', 'Pending')}: "
                f"{why(obj) or 'it is not ready'}.",
                remedy="Wait until it is Ready.",
            )
        client_values = {
            "RAY_ADDRESS": endpoint.client_address,
            "RAY_AUTH_MODE": "token" if endpoint.token_path else None,
            "RAY_AUTH_TOKEN_PATH": endpoint.token_path,
        }
    _print({"client": client_values, "jobs": jobs_values}, output)


def _print_phase(cluster: Object, output: Format | None) -> None:
    if output is Format.JSON:
        print_object(cluster, Format.JSON)
        return
    where = f"{cluster.metadata.team}/{cluster.metadata.name}"
    note(f"cluster {where} is {cluster.status.get('phase', 'Pending')}")


def _print(ways: Mapping[str, Mapping[str, str | None]], output: Format | None) -> None:
    """Print all ways to connect as JSON, or the first as shell exports."""
    if output is Format.JSON:
        print_json(ways)
        return
    for key, value in next(iter(ways.values())).items():
        if value is not None:
            say(f"export {key}={shlex.quote(value)}")
