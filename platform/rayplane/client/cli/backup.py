"""`rayplane backup` and `restore`: write this home's platform to one file, and restore a home from such a file."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayplane.client.cli.output import Format, Output, note, print_json, print_table

if TYPE_CHECKING:
    from rayplane.client.backup.restore import Restored


_SHOWN = 50
"""Files left out that are named on the terminal."""


def backup(
    to: Annotated[
        Path, typer.Option("--to", help="The file to write, or a folder for it; its name is then generated.")
    ],
    files: Annotated[
        bool, typer.Option("--files", help="Include the storage root's files, not only their list.")
    ] = False,
    secrets: Annotated[
        bool,
        typer.Option(
            "--secrets/--no-secrets",
            help="Include tokens and passwords, which running jobs and clusters need to go on.",
        ),
    ] = True,
    output: Output = None,
) -> None:
    """Write a backup of this home's platform, which may go on running and taking jobs.

    The file has secrets, so only its owner may read it (0600). Keep copies of it private, too.
    """
    from rayplane.client.backup import make
    from rayplane.settings import load_gateway

    _end_as_if_interrupted()
    made = make.backup(load_gateway(), to, files=files, secrets=secrets, say=note)
    contents = made.contents
    for line in contents.outside:
        note(f"not in the backup: {line}")
    for left in contents.left_out[:_SHOWN]:
        note(f"left out: {left.path}: {left.reason}")
    if contents.left_out[_SHOWN:]:
        note(f"left out: {len(contents.left_out) - _SHOWN} more; -o json has all")
    if output is Format.JSON:
        described = contents.model_dump(mode="json", exclude={"members"})
        print_json({"path": str(made.path), "size": made.size, **described})
        return
    print_table(
        ["WHAT", "IS"],
        [
            ["file", str(made.path)],
            ["size", f"{made.size / 2**20:.1f} MiB"],
            ["rows", str(sum(table.rows for table in contents.store.tables.values()))],
            ["files", f"{contents.file_count} {'copied' if contents.files else 'listed'}"],
            ["left out", str(len(contents.left_out))],
            ["secrets", "yes: keep it where only you can read it" if contents.secrets else "no"],
        ],
    )


def restore(
    file: Annotated[Path, typer.Argument(help="File that 'rayplane backup' wrote.")],
    home: Annotated[
        Path | None, typer.Option(help="The home to restore into; default: as for every command.", show_default=False)
    ] = None,
    storage_root: Annotated[
        str | None,
        typer.Option(help="URI of the storage root, if it has changed.", show_default=False),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only verify the file and compare it with this home's storage root.")
    ] = False,
    incomplete: Annotated[
        bool, typer.Option("--incomplete", help="Restore even if files of the storage root are missing or changed.")
    ] = False,
    output: Output = None,
) -> None:
    """Restore a backup into an empty home; `rayplane up` then resumes its jobs. Overwrites nothing.

    With --check, exits with 5 if files are missing or changed.
    """
    from rayplane.client.backup import restore as restoring
    from rayplane.errors import Conflict
    from rayplane.settings import load_gateway

    _end_as_if_interrupted()
    changes: dict[str, Any] = {"home": home.expanduser().absolute()} if home is not None else {}
    if storage_root is not None:
        changes["storage_root"] = storage_root
    settings = load_gateway().model_copy(update=changes)
    if check:
        result = restoring.check(file, settings, say=note)
        _print(result, output)
        if not result.difference.is_none:
            raise typer.Exit(Conflict.exit_code)
        return
    _print(restoring.restore(file, settings, incomplete=incomplete, say=note), output)
    note(f"the platform is in {settings.home}. Start it with: RAYPLANE_HOME={settings.home} rayplane up")


def _end_as_if_interrupted() -> None:
    """Make SIGTERM end the command as Ctrl-C does, so that unfinished files are removed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def _print(result: Restored, output: Format | None) -> None:
    contents, difference = result.contents, result.difference
    for line in result.notes:
        note(line)
    if output is Format.JSON:
        described = contents.model_dump(mode="json", exclude={"members"})
        where = {"home": str(result.home), "storage_root": result.storage_root, "notes": result.notes}
        print_json({**where, "storage": difference.model_dump(), "backup": described})
        return
    for change, paths in (("missing", difference.missing), ("changed", difference.changed)):
        for path in paths:
            note(f"{change}: {path}")
    print_table(
        ["WHAT", "IS"],
        [
            ["made at", f"{contents.made_at:%Y-%m-%d %H:%M:%S} UTC by rayplane {contents.rayplane}"],
            ["home", str(result.home)],
            ["storage root", result.storage_root],
            ["rows", str(sum(table.rows for table in contents.store.tables.values()))],
            ["files", f"{difference.checked}, {len(difference.missing)} missing, {len(difference.changed)} changed"],
        ],
    )
