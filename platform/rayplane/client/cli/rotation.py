"""`rayplane token rotate` and `rayplane secrets rotate`: replace the home's secrets by new ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from rayplane.client.cli.output import Format, Output, print_json, print_table

if TYPE_CHECKING:
    from rayplane.client.up.rotate import Rotated

token = typer.Typer(no_args_is_help=True, help="The local user's token.")
secrets = typer.Typer(no_args_is_help=True, help="The platform's own secrets.")

_NAMES = ("signing", "metrics", "mlflow-admin", "mlflow-teams", "mlflow-forms")


@token.callback()
def _token() -> None:
    """The local user's token."""


@secrets.callback()
def _secrets() -> None:
    """The platform's own secrets."""


@token.command("rotate")
def rotate_token(output: Output = None) -> None:
    """Replace the local user's token; the old one is refused within a second. The new one is not printed."""
    from rayplane.client.up import rotate
    from rayplane.settings import Home, find_home

    _print([rotate.rotate_token(Home(find_home()))], output)


@secrets.command("rotate")
def rotate_secrets(
    only: Annotated[
        list[str] | None, typer.Option("--only", help=f"One of {', '.join(_NAMES)}; may be repeated. Default: all.")
    ] = None,
    grace: Annotated[
        str, typer.Option(help="How long the former secrets are still accepted, such as 1h; 0s: not at all.")
    ] = "1h",
    output: Output = None,
) -> None:
    """Replace the platform's secrets by new ones. Jobs go on running; the platform may be down."""
    from rayplane.client.up import rotate
    from rayplane.errors import InvalidInput
    from rayplane.nouns.base import parse_duration
    from rayplane.settings import Home, find_home

    unknown = [name for name in only or () if name not in _NAMES]
    if unknown:
        raise InvalidInput(f"There is no secret '{unknown[0]}'.", remedy=f"There are: {', '.join(_NAMES)}.")
    try:
        seconds = parse_duration(grace)
    except ValueError as exc:
        raise InvalidInput(f"--grace: {exc}.", remedy="Write it as 10m or 1h.") from exc
    chosen = [rotate.Secret(name) for name in only or ()]
    _print(rotate.rotate_secrets(Home(find_home()), chosen, grace=seconds), output)


def _print(done: Sequence[Rotated], output: Format | None) -> None:
    if output is Format.JSON:
        print_json([item.model_dump(mode="json") for item in done])
        return
    print_table(["SECRET", "FILE", "DONE"], [[item.secret, item.path, item.done] for item in done])
