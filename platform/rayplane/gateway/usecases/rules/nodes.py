"""Checks of nodes that belong to one job or service."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rayplane.errors import RayplaneError
from rayplane.gateway.admission.sizes import size_of
from rayplane.gateway.backends.base import Capability, JobRef, Reader, ServiceRef
from rayplane.gateway.usecases import nodes as own_nodes
from rayplane.gateway.usecases.rules.draft import Check, Draft, preflight
from rayplane.nouns.cluster import Nodes
from rayplane.nouns.team import Size

_CAPABILITIES = {"Job": Capability.JOB, "Service": Capability.SERVICE}


def nodes_of(draft: Draft, nodes: Nodes) -> Iterator[Check]:
    """Checks that the backend has such nodes, that the team has the size, and that the backend can provide them."""
    noun, capability = draft.noun.singular, _CAPABILITIES[draft.noun.kind]
    assert draft.owner is not None
    owner = draft.owner
    yield Check("backend", lambda: own_nodes.reader(owner, noun, capability, nodes, draft.platform))
    where = f"{noun}.nodes.size"
    yield Check("size", lambda: size_of(draft.of_team, nodes.size, team_name=draft.team, where=where))
    size = draft.of_team.sizes.get(nodes.size)
    if size is None or not draft.ask:
        return
    try:
        reader = own_nodes.reader(owner, noun, capability, nodes, draft.platform)
    except RayplaneError:
        return  # the check ``backend`` reports it
    ask, title = _question(draft, reader, size)
    yield Check("preflight", lambda: preflight(draft, f"{title} can't have nodes of its own", ask))


def _question(draft: Draft, reader: Reader, size: Size) -> tuple[Callable[[], list[str]], str]:
    """(the call to the backend's pre-flight, the object's title in messages)."""
    if draft.noun.kind == "Job":
        job = JobRef(team=draft.team, name=draft.name, uid="0" * 32, attempt=1)
        return lambda: reader.preflight_job(job, draft.spec, size), f"Job '{job}'"
    service = ServiceRef(team=draft.team, name=draft.name, uid="0" * 32)
    return lambda: reader.preflight_service(service, draft.spec, size), f"Service '{service}'"
