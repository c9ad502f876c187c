"""`rayplane cluster`: create, and where a cluster is reached."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Annotated

import typer

from rayplane.client.cli.noun import NameArgument, group
from rayplane.client.cli.output import Format, Output, TeamOption, client, note, print_json, print_object, team_of

app = group("clusters", "Ray clusters of a team.")


@app.command("apply", hidden=True)
@app.command()
def create(
    name: NameArgument,
    size: Annotated[str | None, typer.Option(help="A size of the team.", show_default="small")] = None,
    workers: Annotated[int, typer.Option(min=0, help="The most worker nodes beside the head.")] = 0,
    wait: Annotated[bool, typer.Option(help="Wait until it is ready.")] = True,
    team: TeamOption = None,
    output: Output = None,
) -> None:
    """Make a cluster; one that is there already, as asked, is left as it is."""
    with client() as api:
        of = team_of(api, team)
        spec = {"size": size} if size else {}
        made = api.clusters.apply(of, name, {**spec, "workers": {"max": workers}})
        if wait:
            note(f"cluster {of}/{name} is starting")
            made = api.clusters.wait(of, name)
        if output is Format.JSON:
            print_object(made, Format.JSON)
        else:
            note(f"cluster {of}/{name} is {made.status.get('phase', 'Pending')}")


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
        # The gateway takes jobs for a cluster that is not ready yet.
        found = api.clusters.wait(of, name) if wait and not jobs else api.clusters.get(of, name)
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


def _print(ways: Mapping[str, Mapping[str, str | None]], output: Format | None) -> None:
    """All ways as JSON, or the first as exports."""
    if output is Format.JSON:
        print_json(ways)
        return
    for key, value in next(iter(ways.values())).items():
        if value is not None:
            print(f"export {key}={shlex.quote(value)}")
