"""Checks of nodes that belong to one job or service."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rayplane.errors import RayplaneError
from rayplane.gateway.admission.sizes import size_of
from rayplane.gateway.backends.base import JobRef, ServiceRef
from rayplane.gateway.store.typed import Team
from rayplane.gateway.usecases import nodes as own_nodes
from rayplane.gateway.usecases.platform import Platform
from rayplane.gateway.usecases.rules.draft import Check, Draft, preflight
from rayplane.nouns.cluster import Nodes
from rayplane.nouns.team import Size

_PORTS: dict[str, Callable[[Team, Nodes, Platform], object]] = {
    "Job": own_nodes.jobs,
    "Service": own_nodes.services,
}


def nodes_of(draft: Draft, nodes: Nodes) -> Iterator[Check]:
    """Checks that the backend has such nodes, that the team has the size, and that the backend can provide them."""
    noun, port_of = draft.noun.singular, _PORTS[draft.noun.kind]
    assert draft.owner is not None
    owner = draft.owner
    yield Check("backend", lambda: port_of(owner, nodes, draft.platform))
    where = f"{noun}.nodes.size"
    yield Check("size", lambda: size_of(draft.of_team, nodes.size, team_name=draft.team, where=where))
    size = draft.of_team.sizes.get(nodes.size)
    if size is None or not draft.ask:
        return
    try:
        ask, title = _question(draft, owner, nodes, size)
    except RayplaneError:
        return  # the check ``backend`` reports it
    yield Check("preflight", lambda: preflight(draft, f"{title} can't have nodes of its own", ask))


def _question(draft: Draft, owner: Team, nodes: Nodes, size: Size) -> tuple[Callable[[], list[str]], str]:
    """(the call to the backend's pre-flight, the object's title in messages)."""
    if draft.noun.kind == "Job":
        jobs, job = own_nodes.jobs(owner, nodes, draft.platform), JobRef(draft.team, draft.name, "0" * 32, attempt=1)
        return lambda: jobs.preflight(job, draft.spec, size), f"Job '{job}'"
    services = own_nodes.services(owner, nodes, draft.platform)
    service = ServiceRef(draft.team, draft.name, "0" * 32)
    return lambda: services.preflight(service, draft.spec, size), f"Service '{service}'"
