"""The rules of services."""

from __future__ import annotations

from collections.abc import Iterator

from rayplane.gateway.usecases import nodes, packages, service
from rayplane.gateway.usecases.cluster import note_work
from rayplane.gateway.usecases.rules.base import Effect, Rules
from rayplane.gateway.usecases.rules.draft import Check, Draft
from rayplane.gateway.usecases.rules.nodes import nodes_of
from rayplane.nouns.base import Object
from rayplane.nouns.service import ServiceSpec


class ServiceRules(Rules):
    """A service runs on a cluster of its team or on nodes of its own, and does not move."""

    reconciled = True

    def before(self, draft: Draft) -> Iterator[Check]:
        spec: ServiceSpec = draft.spec
        if spec.nodes is not None:
            yield from nodes_of(draft, spec.nodes)
        yield Check("package", lambda: packages.check(draft.team, spec.package, "service.package", draft.platform))

    def reserve(self, draft: Draft) -> Iterator[Check]:
        spec: ServiceSpec = draft.spec
        owner, before = draft.owner, draft.before
        assert owner is not None
        if spec.cluster is not None:
            name = spec.cluster
            yield Check("cluster", lambda: draft.platform.cluster(draft.team, name))
        elif spec.nodes is not None:
            wanted = nodes.demand(spec.nodes.as_cluster(), draft.of_team)
            granted = service.granted(before, draft.of_team)
            yield Check(
                "quota", lambda: nodes.check_quota(owner, "Service", draft.name, wanted, granted, draft.platform)
            )
        if before is not None:
            yield Check("change", lambda: service.check_change(owner, before, spec))

    def written(self, draft: Draft) -> Iterator[Effect]:
        if draft.spec.cluster is not None:
            yield lambda obj: _note_work(draft, obj)

    def asks(self, draft: Draft) -> bool:
        return draft.spec.nodes is not None


def _note_work(draft: Draft, obj: Object) -> Object:
    note_work(draft.platform.store.get("Cluster", draft.team, draft.spec.cluster), draft.platform)
    return obj
