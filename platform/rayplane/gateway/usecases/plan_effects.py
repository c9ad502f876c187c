"""Changes, cost and side effects of a planned document. Reads the store, writes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rayplane.errors import RayplaneError
from rayplane.gateway.admission import quota
from rayplane.gateway.admission.lifetime import Terms
from rayplane.gateway.store.typed import AnyObject, Cluster, Team
from rayplane.gateway.usecases import cluster as clusters
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns import CLUSTER, TEAM
from rayplane.nouns.cluster import ClusterSpec
from rayplane.nouns.job import TERMINAL, JobSpec
from rayplane.nouns.plan import Cost, FieldChange, PlannedDocument, TotalCost
from rayplane.nouns.service import ServiceSpec
from rayplane.nouns.team import Size, TeamSpec, Usage

_GIB = 2**30
_HOUR = 3600.0
_ROLLS_OUT = ("model", "app", "package", "feature_service", "max_ongoing_requests")


def cost(spec: ClusterSpec, size: Size, terms: Terms) -> Cost | None:
    """The most compute that a cluster may hold, and for how long; None for one that holds none of the platform's."""
    demand = quota.demand(spec, size)
    if not (demand.cpu or demand.memory or demand.gpu):
        return None
    hours = None if terms.max_lifetime is None else terms.max_lifetime.total_seconds() / _HOUR
    return Cost(cpu=demand.cpu, memory=demand.memory, gpu=demand.gpu, hours=hours)


def cost_of_nodes(spec: JobSpec | ServiceSpec, team: TeamSpec) -> Cost | None:
    """The most that the own nodes of a job or service may hold; None on a cluster, which has a cost of its own."""
    size = team.sizes.get(spec.nodes.size) if spec.nodes is not None else None
    if spec.nodes is None or size is None:
        return None
    demand = quota.demand(spec.nodes.as_cluster(), size)
    hours = None
    if isinstance(spec, JobSpec) and spec.timeout is not None:
        hours = spec.timeout / _HOUR  # of all its attempts together
    return Cost(cpu=demand.cpu, memory=demand.memory, gpu=demand.gpu, hours=hours)


def total(costs: Iterable[Cost | None]) -> TotalCost:
    """The sum of the costs: in resource-hours where they have an end, as amounts of compute where they have none."""
    with_end, endless = TotalCost(), Cost()
    for part in costs:
        if part is None:
            continue
        if part.hours is None:
            endless = Cost(cpu=endless.cpu + part.cpu, memory=endless.memory + part.memory, gpu=endless.gpu + part.gpu)
            continue
        with_end.core_hours += part.cpu * part.hours
        with_end.gib_hours += part.memory / _GIB * part.hours
        with_end.gpu_hours += part.gpu * part.hours
    return with_end.model_copy(update={"endless": endless if endless != Cost() else None})


def describe(
    planned: PlannedDocument, before: AnyObject | None, after: AnyObject, owner: Team | None, platform: Platform
) -> None:
    """Add the changed fields and the warnings to a planned document."""
    planned.fields = list(_differences(before, after))
    if before is None:
        planned.warnings += _of_a_new(after, platform)
        return
    changed = {change.field: change for change in planned.fields}
    warn = {"Cluster": _of_a_cluster, "Team": _of_a_team, "Service": _of_a_service}.get(after.kind)
    if warn is not None and changed:
        planned.warnings += warn(before, after, changed, platform)
    if after.kind == "Job" and planned.change == "unchanged":
        planned.warnings.append("It is there already, and is not run again.")


def _differences(before: AnyObject | None, after: AnyObject) -> Iterator[FieldChange]:
    new = {**_flat("spec", after.spec_data), **_flat("metadata.labels", after.metadata.labels)}
    if before is None:
        yield from (FieldChange(field=path, new=value) for path, value in new.items() if value not in (None, {}, []))
        return
    old = {**_flat("spec", before.spec_data), **_flat("metadata.labels", before.metadata.labels)}
    for path in dict.fromkeys([*old, *new]):
        if old.get(path) != new.get(path):
            yield FieldChange(field=path, old=old.get(path), new=new.get(path))


def _flat(path: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {} if value == {} else {path: value}
    fields: dict[str, Any] = {}
    for key, inner in value.items():
        fields |= _flat(f"{path}.{key}", inner)
    return fields


def _of_a_new(after: AnyObject, platform: Platform) -> list[str]:
    if after.kind == "Pipeline" and not _there("Cluster", after.team, after.spec.cluster, platform):
        return [f"Its cluster '{after.team}/{after.spec.cluster}' is not there yet: a run of it needs one."]
    return []


def _of_a_cluster(
    before: AnyObject, after: AnyObject, changed: dict[str, FieldChange], platform: Platform
) -> list[str]:
    team, name = after.team, after.metadata.name
    warnings = []
    if "spec.suspended" in changed and after.spec.suspended:
        work = [*_work_on("Job", team, name, platform), *_work_on("Service", team, name, platform)]
        ends = f" {', '.join(work[:5])}{' and more' if len(work) > 5 else ''} end{'s' if len(work) == 1 else ''}."
        warnings.append(f"Its compute is given back: what runs there ends.{ends if work else ''}")
    elif "spec.size" in changed or "spec.backend" in changed:
        warnings.append("Its head starts anew, with the other size: what runs there ends.")
    most = changed.get("spec.workers.max")
    if most is not None and most.new < most.old:
        warnings.append(f"It may have {most.new:g} workers instead of {most.old:g}: what runs on more of them is lost.")
    life = changed.get("spec.max_lifetime")
    if life is not None and life.new is not None and (life.old is None or life.new < life.old):
        warnings.append(f"It ends sooner: {life.new / _HOUR:g} h after it was made, whatever runs there then.")
        of_team = platform.store.get(TEAM, "", team).spec
        if _ends_at_once(before, after.spec, of_team, of_team, platform):
            warnings.append("That time is over: it is suspended and deleted at once.")
    return warnings


def _of_a_team(before: AnyObject, after: AnyObject, changed: dict[str, FieldChange], platform: Platform) -> list[str]:
    old, new = before.spec, after.spec
    warnings = []
    used = quota.total(_demands(after.metadata.name, old, platform))
    for reason in quota.exceeded(new.quota, Usage(), used):
        warnings.append(f"Its clusters ask for more than that already: {reason}. They stay, but none can grow.")
    for size in sorted(set(old.sizes) | set(new.sizes)):
        if old.sizes.get(size) == new.sizes.get(size):
            continue
        users = [c for c in _clusters(after.metadata.name, platform) if c.spec.size == size]
        if users and size in new.sizes:
            names = ", ".join(f"'{c.metadata.name}'" for c in users[:3])
            warnings.append(f"Size '{size}' changes: cluster {names} has it with its next head.")
        elif users:
            warnings.append(f"Size '{size}' goes, but cluster '{users[0].metadata.name}' has it, and can't start anew.")
    over = [
        f"'{c.metadata.name}'"
        for c in _clusters(after.metadata.name, platform)
        if _ends_at_once(c, c.spec, old, new, platform)
    ]
    if over:
        shown = ", ".join(over[:5]) + (f" and {len(over) - 5} more" if len(over) > 5 else "")
        warnings.append(f"The lifetime of cluster {shown} is over then: what runs there ends, and it is deleted.")
    moved = [c for c in _clusters(after.metadata.name, platform) if not c.spec.backend]
    if "spec.backend" in changed and moved:
        warnings.append(f"Cluster '{moved[0].metadata.name}' would be looked for on '{new.backend}', where it is not.")
    return warnings


def _ends_at_once(cluster: Cluster, spec: ClusterSpec, old: TeamSpec, new: TeamSpec, platform: Platform) -> bool:
    """True if the new spec of the cluster or of its team ends the lifetime of a cluster that has time left."""
    now, current = platform.clock(), cluster.spec
    try:
        ends = [
            clusters.end_of_life(cluster, of, team, platform.readers(clusters.backend_of(of, team)))
            for of, team in ((current, old), (spec, new))
        ]
    except RayplaneError:
        return False  # a backend that can't be opened ends nothing; the document that names it is refused for that
    return (ends[0] is None or ends[0] > now) and ends[1] is not None and ends[1] <= now


def _of_a_service(
    before: AnyObject, after: AnyObject, changed: dict[str, FieldChange], platform: Platform
) -> list[str]:
    if any(f"spec.{field}" in changed for field in _ROLLS_OUT):
        return ["A new revision is rolled out."]
    return []


def _work_on(kind: str, team: str, cluster: str, platform: Platform) -> list[str]:
    return [
        f"{kind.lower()} '{obj.metadata.name}'"
        for obj in platform.store.each(kind, team)
        if obj.spec.cluster == cluster and obj.status.phase not in TERMINAL
    ]


def _clusters(team: str, platform: Platform) -> list[Cluster]:
    return list(platform.store.each(CLUSTER, team))


def _demands(team: str, spec: TeamSpec, platform: Platform) -> Iterator[Usage]:
    for cluster in _clusters(team, platform):
        wanted = cluster.spec
        size = spec.sizes.get(wanted.size)
        yield Usage(clusters=1) if size is None else quota.demand(wanted, size)


def _there(kind: str, team: str, name: str, platform: Platform) -> bool:
    return any(obj.metadata.name == name for obj in platform.store.each(kind, team))
