"""Objects as the gateway reads them: metadata, and the spec and status of their noun, parsed at first use. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeAlias, TypeVar

from rayplane.nouns import by_kind
from rayplane.nouns.base import Metadata, Object, Spec, Status, as_stored, etag_of, parse
from rayplane.nouns.cluster import ClusterSpec, ClusterStatus
from rayplane.nouns.job import JobSpec, JobStatus
from rayplane.nouns.noun_type import NounType
from rayplane.nouns.pipeline import PipelineSpec, PipelineStatus, RunSpec, RunStatus
from rayplane.nouns.service import ServiceSpec, ServiceStatus
from rayplane.nouns.team import TeamSpec, TeamStatus

S = TypeVar("S", bound=Spec)
T = TypeVar("T", bound=Status)


@dataclass(frozen=True)
class TypedObject(Generic[S, T]):
    """An object of a noun.

    An object that a stricter rule would refuse today is read all the same: see ``nouns.base.as_stored``.
    """

    kind: str
    metadata: Metadata
    spec_data: dict[str, Any]
    """The spec as plain data, as it is stored and shown."""
    status_data: dict[str, Any]
    """The status as plain data, as it is stored and shown."""

    @classmethod
    def of(cls, noun: NounType[S, T], metadata: Metadata, spec: S) -> TypedObject[S, T]:
        """An object that is not stored: without a status."""
        return cls(noun.kind, metadata, spec.model_dump(mode="json"), {})

    @cached_property
    def spec(self) -> S:
        """The spec."""
        spec: S = as_stored(by_kind(self.kind).spec, self.spec_data)
        return spec

    def valid_spec(self) -> S:
        """The spec, parsed by today's rules; raises InvalidSpec if they refuse it."""
        noun = by_kind(self.kind)
        spec: S = parse(noun.spec, self.spec_data, noun.singular)
        return spec

    @cached_property
    def status(self) -> T:
        """The status. Do not change it: change a ``status_copy()``, and write that."""
        return self.status_copy()

    def status_copy(self) -> T:
        """A status of its own for a caller that changes it and writes it to the store."""
        status: T = as_stored(by_kind(self.kind).status, self.status_data)
        return status

    @property
    def team(self) -> str:
        """The team's name; empty for a team."""
        return self.metadata.team or ""

    @property
    def etag(self) -> str:
        """The strong ETag of this version of the object."""
        return etag_of(self.metadata)

    def plain(self) -> Object:
        """The object as the API shows it."""
        return Object(kind=self.kind, metadata=self.metadata, spec=self.spec_data, status=self.status_data)


AnyObject: TypeAlias = TypedObject[Any, Any]
Team: TypeAlias = TypedObject[TeamSpec, TeamStatus]
Cluster: TypeAlias = TypedObject[ClusterSpec, ClusterStatus]
Job: TypeAlias = TypedObject[JobSpec, JobStatus]
Pipeline: TypeAlias = TypedObject[PipelineSpec, PipelineStatus]
Run: TypeAlias = TypedObject[RunSpec, RunStatus]
Service: TypeAlias = TypedObject[ServiceSpec, ServiceStatus]
