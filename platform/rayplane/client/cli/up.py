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


_USERS = {False: "the platform's own user", True: "a Unix user of each team"}


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
        typer.Option("--foreground", help="Stay, print what it logs, and take it down on SIGTERM or Ctrl-C."),
    ] = False,
    output: Output = None,
) -> None:
    """Start the local platform and wait until it is healthy; after a crash, recover what is left of it."""
    from rayplane.client.up import control
    from rayplane.settings import load_gateway

    settings = load_gateway()
    if port is not None:
        settings = settings.model_copy(update={"port": port})
    if not foreground:
        _print_where(control.up(settings, say=note, timeout=timeout), output)
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # With -o json standard output is the answer alone.
    with control.followed(settings.home_paths, sys.stderr if output is Format.JSON else sys.stdout):
        _print_where(control.up(settings, say=note, timeout=timeout), output)
        try:
            control.stay(settings.home_paths)
        except KeyboardInterrupt:
            control.down(settings.home_paths, say=note)


def _print_where(found: PlatformView, output: Format | None) -> None:
    if output is Format.JSON:
        print_json(found.model_dump(mode="json"))
        return
    print_table(
        ["WHAT", "WHERE"],
        [
            ["gateway", found.gateway_url or "-"],
            ["MLflow", found.mlflow_url or "-"],
            ["Prometheus", found.prometheus_url or "not installed"],
            ["token", found.token_path],
            ["home", found.home],
            ["clusters run as", _USERS[found.local_users]],
        ],
    )


def status(output: Output = None) -> None:
    """Show the local platform's processes. Ends with 0 when all are healthy, with 8 when the platform is not up."""
    from rayplane.client.up import view
    from rayplane.errors import Unavailable

    found = view.look(_home())
    if output is Format.JSON:
        print_json(found.model_dump(mode="json"))
    else:
        _print(found)
    if found.state != "up":
        raise typer.Exit(Unavailable.exit_code)


def down(output: Output = None) -> None:
    """Stop the local platform and its clusters. Data, logs and runs stay; `rayplane up` takes them up again."""
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


def _print(found: PlatformView) -> None:
    print_table(
        ["PROCESS", "STATE", "PID", "URL", "RESTARTS", "LOG"],
        [[p.name, p.state, str(p.pid or "-"), p.url or "-", str(p.restarts), p.log or "-"] for p in found.processes],
    )
    for process in found.processes:
        if process.message:
            note(f"{process.name}: {process.message}")
    note(f"the platform in {found.home} is {found.state}; its clusters run as {_USERS[found.local_users]}")
