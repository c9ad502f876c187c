"""`rayplane plan`: say what applying YAML documents would change, what forbids it, and what it may cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayplane.client.cli.apply import from_its_file, load, only_team
from rayplane.client.cli.output import Format, Output, TeamOption, client, defaults, print_json, say

if TYPE_CHECKING:
    from rayplane.nouns.plan import Cost, Plan, PlannedDocument, TotalCost

_SIGNS = {"created": "+", "changed": "~", "unchanged": "=", "unknown": "?"}


def plan(
    file: Annotated[list[str], typer.Option("--file", "-f", help="A YAML file, or - for standard input; may repeat.")],
    team: TeamOption = None,
    output: Output = None,
) -> None:
    """Say what 'rayplane apply' of the same documents would do; change nothing.

    For each document: the fields that are created or changed; every reason that forbids it; its highest cost; warnings.
    The documents are planned together. Exits with 6 if any is forbidden.
    """
    from rayplane.errors import Refused

    documents = [from_its_file(document, base) for name in file for document, base in load(name)]
    with client() as api:
        default = team or defaults.team or only_team(api, documents)
        planned = api.plan(documents, team=default)
    if output is Format.JSON:
        print_json(planned.model_dump(mode="json"))
    else:
        _print(planned)
    if not planned.allowed:
        raise typer.Exit(Refused.exit_code)


def _print(plan: Plan) -> None:
    for document in plan.documents:
        where = f"{document.team}/{document.name}" if document.team else document.name
        say(f"{_SIGNS[document.change]} {document.kind.lower()} {where}")
        for line in _lines(document):
            say(f"    {line}")
    count = {change: sum(d.change == change for d in plan.documents) for change in _SIGNS}
    say(f"{count['created']} to make, {count['changed']} to change, {count['unchanged']} as it is.", end="")
    say(f" At most {_total(plan.cost)}." if _total(plan.cost) else "")
    forbidden = sum(bool(d.forbidden) for d in plan.documents)
    if forbidden:
        say(f"{forbidden} of {len(plan.documents)} documents forbidden; applied together, none would be.")


def _lines(document: PlannedDocument) -> list[str]:
    lines = []
    for change in document.fields:
        if document.change == "created":
            lines.append(f"{change.field}: {_shown(change.new)}")
        else:
            lines.append(f"{change.field}: {_shown(change.old)} -> {_shown(change.new)}")
    if document.cost is not None and document.change != "unchanged":
        lines.append(f"costs at most: {_cost(document.cost)}")
    lines += [f"mind: {warning}" for warning in document.warnings]
    for refusal in document.forbidden:
        lines.append(f"forbidden: {refusal.message}")
        if refusal.remedy:
            lines.append(f"  do: {refusal.remedy}")
    return lines


def _cost(cost: Cost) -> str:
    cores, gib, gpus = cost.cpu, cost.memory / 2**30, cost.gpu
    amounts, hours = _amounts(cores, gib, gpus, ""), cost.hours
    if hours is None:
        return f"{amounts} until a user ends it"
    return f"{_amounts(cores * hours, gib * hours, gpus * hours, '-hours')} ({amounts} for {hours:g} h)"


def _total(cost: TotalCost) -> str:
    parts = []
    if cost.core_hours or cost.gib_hours or cost.gpu_hours:
        parts.append(_amounts(cost.core_hours, cost.gib_hours, cost.gpu_hours, "-hours"))
    if cost.endless is not None:
        amounts = _amounts(cost.endless.cpu, cost.endless.memory / 2**30, cost.endless.gpu, "")
        parts.append(f"{amounts} until a user ends it")
    return ", and ".join(parts)


def _amounts(cores: float, gib: float, gpus: float, unit: str) -> str:
    words = (("core", cores), ("GiB", gib), ("GPU", gpus))
    return ", ".join(
        f"{value:g} {word}{unit or ('s' if word != 'GiB' and value != 1 else '')}" for word, value in words if value
    )


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)
