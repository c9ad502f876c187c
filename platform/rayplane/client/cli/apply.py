"""`rayplane apply`: check any number of YAML documents together, then create or change their objects."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayplane.client.cli.output import Format, Output, TeamOption, client, defaults, print_json, say

if TYPE_CHECKING:
    from rayplane.client.sdk import Client
    from rayplane.nouns.base import Document


def apply(
    file: Annotated[list[str], typer.Option("--file", "-f", help="A YAML file, or - for standard input; may repeat.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change, and change nothing.")] = False,
    team: TeamOption = None,
    output: Output = None,
) -> None:
    """Create or change objects as documents say. All are checked before any is written; applying again changes nothing.

    In pipelines, jobs and services, `package: <folder>` (relative to the file) is uploaded and replaced by its address.
    """
    documents = [from_its_file(document, base) for name in file for document, base in load(name)]
    with client() as api:
        default = team or defaults.team or only_team(api, documents)
        changes = api.apply_documents(documents, team=default, dry_run=dry_run)
    if output is Format.JSON:
        print_json([vars(change) for change in changes])
        return
    for change in changes:
        say(f"{change}{' (dry run)' if dry_run else ''}")


def load(name: str) -> list[tuple[Document, Path]]:
    """The documents of a file (``-``: standard input), each with the folder that its paths are relative to.

    Raises InvalidInput if the file can't be read, InvalidSpec naming the file and the document's index in it.
    """
    from rayplane.client.sdk import read_documents
    from rayplane.errors import InvalidInput

    try:
        text, base = (sys.stdin.read(), Path.cwd()) if name == "-" else (Path(name).read_text(), Path(name).parent)
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not text"
        raise InvalidInput(
            f"'{name}' can't be read: {reason}.", remedy="Name a YAML file, or - for standard input."
        ) from exc
    return [(document, base) for document in read_documents(text, name)]


def only_team(api: Client, documents: list[Document]) -> str | None:
    """Default team for documents that name none: the only one that exists or is among the documents, else None."""
    names = {team.metadata.name for team in api.teams.list()}
    names |= {document.metadata.name for document in documents if document.kind == "Team"}
    return names.pop() if len(names) == 1 else None


def from_its_file(document: Document, base: Path) -> Document:
    """The document with its package's folder, given relative to the file's folder ``base``, as an absolute path."""
    from rayplane.client import packaging

    package: Any = document.spec.get("package")
    if not isinstance(package, str) or packaging.is_address(package):
        return document
    return document.model_copy(update={"spec": {**document.spec, "package": str((base / package).absolute())}})
