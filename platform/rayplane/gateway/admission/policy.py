"""Interface of admission policies: each may refuse an object of the kinds that it names, whenever one is applied."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from rayplane.gateway.admission.roles import Principal
from rayplane.nouns.base import Object
from rayplane.nouns.team import TeamSpec


@dataclass(frozen=True)
class AdmissionRequest:
    """An object that a principal asks to write, and its team."""

    kind: str
    team: str
    """Name of its team; empty for a team."""
    name: str
    """For a job without a name of its own: the stem of the name that it will get."""
    labels: Mapping[str, str]
    """Its labels. Commands that submit a job send none, and a job of a pipeline step has none yet."""
    spec: Any
    """Its spec, parsed: a ``ClusterSpec`` for a cluster."""
    before: Object | None
    """The stored object; None if it is a new one."""
    team_spec: TeamSpec | None
    """The spec of its team; None for a team."""
    principal: Principal
    """The caller; for a job of a pipeline step the platform itself, which acts for the person who asked for the run."""


class Policy(Protocol):
    """A plug-in of the family ``policies``, made without arguments for each object."""

    kinds: Collection[str]
    """Kinds of the objects that it checks, such as ``Cluster``."""

    def check(self, request: AdmissionRequest) -> None:
        """Raise an error of rayplane, mostly Refused, if the object may not be written; its remedy says what to do.

        Pure: the same request has the same verdict. ``plan`` asks it too.
        """
        ...
