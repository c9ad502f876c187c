"""The rules of services."""

from __future__ import annotations

from collections.abc import Iterator

from rayplane.gateway.usecases import nodes, packages, service
from rayplane.gateway.usecases.rules.draft import Check, Draft
from rayplane.gateway.usecases.rules.hosted import HostedRules
from rayplane.nouns.service import ServiceSpec


class ServiceRules(HostedRules):
    """A service runs on a cluster of its team or on nodes of its own, and does not move."""

    def before(self, draft: Draft) -> Iterator[Check]:
        spec: ServiceSpec = draft.spec
        yield from super().before(draft)
        yield Check("package", lambda: packages.check(draft.team, spec.package, "service.package", draft.platform))

    def reserve(self, draft: Draft) -> Iterator[Check]:
        spec: ServiceSpec = draft.spec
        owner, before = draft.owner, draft.before
        assert owner is not None
        yield from super().reserve(draft)
        if spec.nodes is not None:
            wanted = nodes.demand(spec.nodes.as_cluster(), draft.of_team)
            granted = service.granted(before, draft.of_team)
            yield Check(
                "quota", lambda: nodes.check_quota(owner, "Service", draft.name, wanted, granted, draft.platform)
            )
        if before is not None:
            yield Check("change", lambda: service.check_change(owner, before, spec))
