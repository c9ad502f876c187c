"""Apply documents, or plan them: check all, ask the gateway for its plan, upload their packages, write each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rayplane import errors
from rayplane.client import packaging
from rayplane.client.sdk.answers import header
from rayplane.client.sdk.documents import require_json
from rayplane.client.sdk.packages import Packages
from rayplane.client.sdk.paths import path_of
from rayplane.client.sdk.transport import Transport
from rayplane.nouns import NOUNS, RUN, by_kind
from rayplane.nouns.base import Document, parse
from rayplane.nouns.noun_type import AnyNoun
from rayplane.nouns.plan import Plan

_Packed = Mapping[Path, tuple[str, bytes]]
"""Content address and zip of each folder that a document names as its package."""


@dataclass(frozen=True)
class Change:
    """The change that ``apply`` made, or with a dry run would make, to one object."""

    kind: str
    team: str
    name: str
    change: Literal["created", "changed", "unchanged"]

    def __str__(self) -> str:
        where = f"{self.team}/{self.name}" if self.team else self.name
        return f"{self.kind.lower()} {where} {self.change}"


@dataclass(frozen=True)
class Wanted:
    """One document, ready to be sent."""

    noun: AnyNoun
    team: str
    name: str
    labels: dict[str, str]
    spec: dict[str, Any]
    folder: Path | None
    """Folder to upload as the spec's package, if the document names one."""

    @classmethod
    def of(cls, noun: AnyNoun, document: Document, team: str | None) -> Wanted:
        """The document with its team; raises InvalidSpec if it needs one and has none, or JSON can't hold its spec."""
        team_name = (document.metadata.team or team) if noun.team_scoped else ""
        if team_name is None:
            raise errors.InvalidSpec(
                f"{noun.kind} '{document.metadata.name}' names no team.", remedy="Set metadata.team, or say --team."
            )
        require_json(document.spec, noun.singular)
        package = document.spec.get("package")
        # The gateway refuses a package that is no string, along with the spec's other mistakes.
        named = package if isinstance(package, str) and not packaging.is_address(package) else ""
        folder = Path(named) if named else None
        return cls(noun, team_name, document.metadata.name, document.metadata.labels, document.spec, folder)


class Applier:
    """Applies and plans documents at one gateway."""

    def __init__(self, transport: Transport, packages: Packages) -> None:
        self._transport, self._packages = transport, packages

    def apply(self, documents: list[Document], *, team: str | None, dry_run: bool) -> list[Change]:
        """Create or change objects as the documents say, in the order of the table of nouns; see the client's verb."""
        wanted = [Wanted.of(noun, document, team) for noun, document in _checked_in_order(documents)]
        packed = self._packed(wanted)
        planned = self._plan(wanted, packed)
        _require_allowed(planned)
        if dry_run:
            return [_change(item.kind, item.team, item.name, item.change) for item in planned.documents]
        done: list[Change] = []
        for item in wanted:
            try:
                done.append(self._put(item, self._uploaded_spec(item, packed)))
            except errors.RayplaneError as exc:
                made = [str(change) for change in done if change.change != "unchanged"]
                if not made:
                    raise
                raise _partly_applied(exc, made) from exc
        return done

    def plan(self, documents: list[Document], *, team: str | None) -> Plan:
        """Plan the documents together; see the client's verb."""
        wanted = [Wanted.of(by_kind(document.kind), document, team) for document in documents]
        return self._plan(wanted, self._packed(wanted))

    def _packed(self, wanted: list[Wanted]) -> _Packed:
        """Pack each named folder once, so that the planned package is the uploaded one."""
        folders = {item.folder for item in wanted if item.folder is not None}
        return {folder: self._packages.pack(folder) for folder in folders}

    def _plan(self, wanted: list[Wanted], packed: _Packed) -> Plan:
        sent = [
            {
                "kind": item.noun.kind,
                "metadata": {"name": item.name, "labels": item.labels, **({"team": item.team} if item.team else {})},
                "spec": self._known_spec(item, packed),
            }
            for item in wanted
        ]
        return self._transport.read(Plan, "POST", "/v1/plan", json_body={"documents": sent})

    def _known_spec(self, item: Wanted, packed: _Packed) -> dict[str, Any]:
        if item.folder is None:
            return item.spec
        address, _ = packed[item.folder]
        # The gateway would refuse a package that is not uploaded yet: plan the rest of the spec without it.
        known = self._packages.has(item.team, address)
        return {**item.spec, "package": address if known else None}

    def _uploaded_spec(self, item: Wanted, packed: _Packed) -> dict[str, Any]:
        if item.folder is None:
            return item.spec
        address, data = packed[item.folder]
        self._packages.keep(item.team, address, data)
        return {**item.spec, "package": address}

    def _put(self, item: Wanted, spec: dict[str, Any]) -> Change:
        answer = self._transport.request(
            "PUT",
            path_of(item.noun, item.team, item.name),
            json_body={"metadata": {"labels": item.labels}, "spec": spec},
        )
        return _change(item.noun.kind, item.team, item.name, header(answer, "X-Change"))


def _checked_in_order(documents: list[Document]) -> list[tuple[AnyNoun, Document]]:
    wrong, parsed = [], []
    for document in documents:
        try:
            noun = by_kind(document.kind)
            if noun is RUN:
                raise errors.InvalidSpec("kind: a PipelineRun is not applied.", remedy="Run 'rayplane pipeline run'.")
            parse(noun.spec, document.spec, noun.singular)
            parsed.append((noun, document))
        except errors.InvalidSpec as exc:
            wrong.append(f"{document.kind} '{document.metadata.name}': {exc}")
    if wrong:
        raise errors.InvalidSpec("; ".join(wrong), errors=wrong)
    order = {noun.kind: index for index, noun in enumerate(NOUNS)}
    return sorted(parsed, key=lambda pair: order[pair[0].kind])


def _change(kind: str, team: str, name: str, change: Any) -> Change:
    return Change(kind, team, name, change)


def _require_allowed(plan: Plan) -> None:
    """Raise the first reason that forbids a document, as the error of its code."""
    for document in plan.documents:
        for refusal in document.forbidden:
            raise errors.from_problem(
                {
                    "type": f"urn:rayplane:problem:{refusal.code}",
                    "detail": f"{document.kind} '{document.name}': {refusal.message} Nothing was made.",
                    "remedy": refusal.remedy or "See all that forbids it with 'rayplane plan'.",
                }
            )


def _partly_applied(exc: errors.RayplaneError, made: list[str]) -> errors.RayplaneError:
    """The error for a write that failed after others had succeeded; it lists those."""
    remedy = f"{exc.remedy or 'Mend that.'} Then apply the same again: what was made stays."
    return type(exc)(f"{exc.detail} Before it: {', '.join(made)}.", remedy=remedy, **{**exc.fields, "made": made})
