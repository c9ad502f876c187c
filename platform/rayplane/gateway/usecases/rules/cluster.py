"""The rules of clusters."""

from __future__ import annotations

from collections.abc import Iterator

from rayplane.errors import RayplaneError
from rayplane.gateway.admission import lifetime
from rayplane.gateway.admission.sizes import size_of
from rayplane.gateway.backends.base import Reader
from rayplane.gateway.store.typed import Cluster
from rayplane.gateway.usecases import cluster as clusters
from rayplane.gateway.usecases.platform import Platform
from rayplane.gateway.usecases.rules.base import Effect, Rules
from rayplane.gateway.usecases.rules.draft import Check, Draft, preflight
from rayplane.gateway.usecases.team import check_backend
from rayplane.nouns.cluster import ClusterSpec, ClusterStatus


class ClusterRules(Rules):
    """A cluster has one of its team's sizes, on a backend that can provide it, and fits into the team's quota."""

    reconciled = True

    def before(self, draft: Draft) -> Iterator[Check]:
        yield from super().before(draft)
        spec: ClusterSpec = draft.spec
        team, platform = draft.of_team, draft.platform
        ref = clusters.ref_of(draft.team, draft.name, spec, draft.before, draft.principal)
        yield Check("size", lambda: size_of(team, spec.size, team_name=draft.team))
        backend = clusters.backend_of(spec, team)
        yield Check("backend", lambda: _open(backend, platform))
        reader = reader_of(draft)
        if reader is None:
            return
        yield Check("acted-on", lambda: clusters.check_acted_on(spec, reader))
        if draft.before is None:
            yield Check("address", lambda: clusters.check_address(spec, reader))
        old = None if draft.before is None else draft.before.spec
        yield Check("lifetime", lambda: lifetime.require(spec, team, what=f"Cluster '{ref}'", before=old))
        size = team.sizes.get(spec.size)
        if size is not None and draft.ask:
            title = f"Cluster '{ref}' can't be made"
            yield Check(
                "preflight", lambda: preflight(draft, title, lambda: reader.clusters.preflight(ref, spec, size))
            )

    def reserve(self, draft: Draft) -> Iterator[Check]:
        spec: ClusterSpec = draft.spec
        owner, before = draft.owner, draft.before
        assert owner is not None
        yield Check("quota", lambda: clusters.check_quota(owner, draft.name, spec, before, draft.platform))
        if before is not None:
            yield Check("change", lambda: clusters.check_change(owner, before, spec))

    def written(self, draft: Draft) -> Iterator[Effect]:
        before = draft.before
        if before is not None:
            yield lambda obj: clusters.on_spec_changed(before, obj, draft.spec, draft.platform)

    def applied(self, draft: Draft) -> Iterator[Effect]:
        yield lambda obj: clusters.note_placed(obj, draft.spec, draft.principal, draft.platform)

    def first_status(self, draft: Draft) -> ClusterStatus:
        return clusters.first_status(draft.spec, draft.principal)

    def asks(self, draft: Draft) -> bool:
        return draft.spec.size in draft.of_team.sizes and reader_of(draft) is not None

    def check_deletion(self, obj: Cluster, platform: Platform) -> None:
        clusters.check_deletion(obj, platform)


def reader_of(draft: Draft) -> Reader | None:
    """The backend of a cluster; None if it is unknown, not offered here or can't be opened, as the check ``backend``
    reports."""
    try:
        return _open(clusters.backend_of(draft.spec, draft.of_team), draft.platform)
    except RayplaneError:
        return None


def _open(backend: str, platform: Platform) -> Reader:
    check_backend(backend, "cluster.backend", platform)
    return platform.readers(backend)
