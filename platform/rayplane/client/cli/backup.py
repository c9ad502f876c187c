"""`rayplane backup` and `restore`: the platform of this home in one file, and a home of such a file."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayplane.client.cli.output import Format, Output, note, print_json, print_table

if TYPE_CHECKING:
    from rayplane.client.backup.restore import Restored


def backup(
    to: Annotated[
        Path, typer.Option("--to", help="The file to write, or a folder to write it into under a name of its own.")
    ],
    files: Annotated[bool, typer.Option("--files", help="With the storage root's files, not only their list.")] = False,
    secrets: Annotated[
        bool,
        typer.Option(
            "--secrets/--no-secrets", help="With tokens and passwords, without which jobs and clusters do not go on."
        ),
    ] = True,
    output: Output = None,
) -> None:
    """Write a backup of this home's platform, which may run and take jobs meanwhile.

    The file holds secrets: only its owner may read it (0600). Keep it so wherever it is copied to.
    """
    from rayplane.client.backup import make
    from rayplane.settings import load_gateway

    _end_as_if_interrupted()
    made = make.backup(load_gateway(), to, files=files, secrets=secrets, say=note)
    contents = made.contents
    for line in contents.outside:
        note(f"not in the backup: {line}")
    if output is Format.JSON:
        told = contents.model_dump(mode="json", exclude={"members"})
        print_json({"path": str(made.path), "size": made.size, **told})
        return
    print_table(
        ["WHAT", "IS"],
        [
            ["file", str(made.path)],
            ["size", f"{made.size / 2**20:.1f} MiB"],
            ["rows", str(sum(table.rows for table in contents.store.tables.values()))],
            ["files", f"{contents.file_count} {'copied' if contents.files else 'listed'}"],
            ["secrets", "yes: keep it where only you can read it" if contents.secrets else "no"],
        ],
    )


def restore(
    file: Annotated[Path, typer.Argument(help="What 'rayplane backup' wrote.")],
    home: Annotated[
        Path | None, typer.Option(help="The home to make; default: as for every command.", show_default=False)
    ] = None,
    storage_root: Annotated[
        str | None,
        typer.Option(help="URI of the storage root, if it is another than it was.", show_default=False),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing: verify the file, compare it with this home's storage root.")
    ] = False,
    incomplete: Annotated[
        bool, typer.Option("--incomplete", help="Go on though files of the storage root are missing or changed.")
    ] = False,
    output: Output = None,
) -> None:
    """Make an empty home into the platform of a backup; `rayplane up` then takes up its jobs. Nothing is overwritten.

    With --check it ends with 5 if files are missing or changed.
    """
    from rayplane.client.backup import restore as restoring
    from rayplane.errors import Conflict
    from rayplane.settings import load_gateway

    _end_as_if_interrupted()
    given: dict[str, Any] = {"home": home.expanduser().absolute()} if home is not None else {}
    if storage_root is not None:
        given["storage_root"] = storage_root
    settings = load_gateway().model_copy(update=given)
    if check:
        found = restoring.check(file, settings, say=note)
        _print(found, output)
        if not found.difference.is_none:
            raise typer.Exit(Conflict.exit_code)
        return
    _print(restoring.restore(file, settings, incomplete=incomplete, say=note), output)
    note(f"the platform is in {settings.home}. Start it with: RAYPLANE_HOME={settings.home} rayplane up")


def _end_as_if_interrupted() -> None:
    """Have SIGTERM end the command as Ctrl-C does: what is half-made is removed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def _print(found: Restored, output: Format | None) -> None:
    contents, difference = found.contents, found.difference
    for line in found.notes:
        note(line)
    if output is Format.JSON:
        told = contents.model_dump(mode="json", exclude={"members"})
        place = {"home": str(found.home), "storage_root": found.storage_root, "notes": found.notes}
        print_json({**place, "storage": difference.model_dump(), "backup": told})
        return
    for how, paths in (("missing", difference.missing), ("changed", difference.changed)):
        for path in paths:
            note(f"{how}: {path}")
    print_table(
        ["WHAT", "IS"],
        [
            ["made at", f"{contents.made_at:%Y-%m-%d %H:%M:%S} UTC by rayplane {contents.rayplane}"],
            ["home", str(found.home)],
            ["storage root", found.storage_root],
            ["rows", str(sum(table.rows for table in contents.store.tables.values()))],
            ["files", f"{difference.checked}, {len(difference.missing)} missing, {len(difference.changed)} changed"],
        ],
    )
