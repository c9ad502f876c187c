"""`rayplane up`, `status` and `down`: the local platform of this home."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from rayplane.client.cli.output import Format, Output, note, print_json, print_table

if TYPE_CHECKING:
    from rayplane.client.up.view import PlatformView
    from rayplane.settings import Home


_CLUSTER_USERS = {False: "the platform's own user", True: "a Unix user of each team"}


def up(
    port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65535,
            help="Port of the gateway; default: RAYPLANE_PORT, else 8470 or a free one.",
            show_default=False,
        ),
    ] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait until all is healthy.")] = 240,
    foreground: Annotated[
        bool,
        typer.Option(
            "--foreground", help="Stay in the foreground, print the logs, and stop the platform on SIGTERM or Ctrl-C."
        ),
    ] = False,
    output: Output = None,
) -> None:
    """Start the local platform and wait until it is healthy; after a crash, adopt or clean up what is left of it."""
    from rayplane.client.up import control
    from rayplane.settings import load_gateway

    settings = load_gateway()
    if port is not None:
        settings = settings.model_copy(update={"port": port})
    if not foreground:
        _print_urls(control.up(settings, say=note, timeout=timeout), output)
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # With -o json only the answer goes to standard output.
    with control.followed(settings.home_paths, sys.stderr if output is Format.JSON else sys.stdout):
        _print_urls(control.up(settings, say=note, timeout=timeout), output)
        try:
            control.stay(settings.home_paths)
        except KeyboardInterrupt:
            control.down(settings.home_paths, say=note)


def _print_urls(platform: PlatformView, output: Format | None) -> None:
    if output is Format.JSON:
        print_json(platform.model_dump(mode="json"))
        return
    print_table(
        ["WHAT", "WHERE"],
        [
            ["gateway", platform.gateway_url or "-"],
            ["MLflow", platform.mlflow_url or "-"],
            ["Prometheus", platform.prometheus_url or "not installed"],
            ["token", platform.token_path],
            ["home", platform.home],
            ["clusters run as", _CLUSTER_USERS[platform.local_users]],
        ],
    )


def status(output: Output = None) -> None:
    """Show the local platform's processes. Exits with 0 if all are healthy, with 8 if the platform is not up."""
    from rayplane.client.up import view
    from rayplane.errors import Unavailable

    platform = view.look(_home())
    if output is Format.JSON:
        print_json(platform.model_dump(mode="json"))
    else:
        _print(platform)
    if platform.state != "up":
        raise typer.Exit(Unavailable.exit_code)


def down(output: Output = None) -> None:
    """Stop the local platform and its clusters. Data, logs and runs are kept for the next `rayplane up`."""
    from rayplane.client.up import control

    home = _home()
    stopped = control.down(home, say=note)
    if output is Format.JSON:
        print_json({"home": str(home.path), "stopped": stopped})
    else:
        note("the platform is down" if stopped else f"nothing was running in {home.path}")


def _home() -> Home:
    from rayplane.settings import Home, find_home

    return Home(find_home())


def _print(shown: PlatformView) -> None:
    print_table(
        ["PROCESS", "STATE", "PID", "URL", "RESTARTS", "LOG"],
        [[p.name, p.state, str(p.pid or "-"), p.url or "-", str(p.restarts), p.log or "-"] for p in shown.processes],
    )
    for process in shown.processes:
        if process.message:
            note(f"{process.name}: {process.message}")
    note(f"the platform in {shown.home} is {shown.state}; its clusters run as {_CLUSTER_USERS[shown.local_users]}")
