"""Explain why an object is not as wanted: gather evidence from store, admission and backend, and have it ranked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime

from rayplane.errors import InvalidInput, NotFound, RayplaneError
from rayplane.gateway.admission.roles import Principal, authorize, may
from rayplane.gateway.backends.base import ObjectRef
from rayplane.gateway.store.typed import AnyObject, Job, Team
from rayplane.gateway.usecases import cluster as clusters
from rayplane.gateway.usecases.platform import Platform
from rayplane.gateway.usecases.rules import RULES, policies
from rayplane.gateway.usecases.rules.draft import Check, Draft
from rayplane.gateway.why.explain import explain as explained
from rayplane.gateway.why.facts import Facts, Verdict, title
from rayplane.nouns import CLUSTER, JOB, RUN, TEAM, by_kind
from rayplane.nouns.base import utcnow
from rayplane.nouns.why import Explanation
from rayplane.storage import layout

_TAIL = 4096
"""Bytes at the end of a failed job's log from which its last lines are taken."""
_LAST_LINES = 5
_READER = Principal(name="rayplane", role="viewer")
"""The principal that the checks run as: the causes are the same for every user who asks."""
_VERDICTS = {"size": ("size-gone", False), "quota": ("quota", True)}
"""Name of a check -> (code of its verdict, True if the verdict is only a likely cause)."""


def explain(
    kind: str,
    team: str,
    name: str,
    *,
    principal: Principal,
    platform: Platform,
    clock: Callable[[], datetime] = utcnow,
) -> Explanation:
    """Explain an object: the causes, ranked, that keep it from being as wanted; none if it is.

    A backend's pre-flight is only asked for principals that may write the object. Raises NotFound with the nearest
    name.
    """
    noun = by_kind(kind)
    authorize(principal, "read", team if noun.team_scoped else name)
    obj = platform.store.get(kind, team if noun.team_scoped else "", name)
    ask = may(principal, "write", team if noun.team_scoped else name)
    return _Explainer(platform, clock(), ask=ask).explain(obj)


class _Explainer:
    """Explains objects as they are at one instant."""

    def __init__(self, platform: Platform, now: datetime, *, ask: bool) -> None:
        """``ask``: make a new pre-flight. Without it the object's conditions still tell the last one's result."""
        self._platform = platform
        self._now = now
        self._ask = ask

    def explain(self, obj: AnyObject) -> Explanation:
        facts = Facts(obj, self._now)
        gather = {
            "Cluster": self._cluster,
            "Job": self._job,
            "Service": self._service,
            "Pipeline": self._pipeline,
            "PipelineRun": self._run,
        }.get(obj.kind)
        return explained(gather(facts) if gather is not None else facts)

    def _cluster(self, facts: Facts) -> Facts:
        spec, meta = facts.obj.spec, facts.obj.metadata
        owner = self._platform.store.get_or_none(TEAM, "", facts.obj.team)
        if owner is None:
            return facts
        try:
            reader = self._platform.readers(clusters.backend_of(spec, owner.spec))
            ref = clusters.ref_of(facts.obj.team, meta.name, spec, facts.obj)
            facts = replace(facts, evidence=reader.clusters.evidence(ref))
        except RayplaneError as exc:
            # The backend can't be asked: that itself is the cause.
            return replace(facts, silence=str(exc), verdicts=self._verdicts(RULES["Cluster"].reserve, facts, owner))
        if meta.deleted_at is not None or spec.suspended or facts.obj.status.phase == "Ready":
            return facts
        verdicts = self._verdicts(RULES["Cluster"].before, facts, owner, before=facts.obj)
        if not any(verdict.code == "size-gone" for verdict in verdicts) and owner.status.phase != "Ready":
            remedy = f"Wait; if it goes on: rayplane why team/{ref.team}."
            # Likely only: a cluster waits for its team only where jobs are tracked; its reconciler says so then.
            verdicts.append(
                Verdict("team-not-onboarded", f"team '{ref.team}' is not onboarded yet", remedy, likely=True)
            )
        return replace(facts, verdicts=verdicts + self._verdicts(RULES["Cluster"].reserve, facts, owner))

    def _verdicts(
        self,
        checks: Callable[[Draft], Iterator[Check]],
        facts: Facts,
        owner: Team,
        *,
        before: AnyObject | None = None,
    ) -> list[Verdict]:
        """Verdicts of the checks that refuse the object now.

        Without ``before`` they check it as a new one: an admin may have lowered the quota since it was created.
        """
        noun, meta = by_kind(facts.obj.kind), facts.obj.metadata
        spec = facts.obj.spec
        draft = Draft(noun, meta.name, spec, owner, before, _READER, self._platform, ask=self._ask)
        verdicts: list[Verdict] = []
        for check in checks(draft):
            if check.name.startswith(policies.PREFIX):
                continue  # a policy refuses a write and keeps no object that was written from being as wanted
            try:
                check.act()
            except RayplaneError as exc:
                code, likely = _VERDICTS.get(check.name, ("preflight", False))
                if reasons := exc.fields.get("reasons"):
                    verdicts += [Verdict(code, reason, likely=likely) for reason in reasons]
                else:
                    verdicts.append(Verdict(code, exc.detail, exc.remedy or "", likely=likely))
        return verdicts

    def _job(self, facts: Facts) -> Facts:
        phase = facts.obj.status.phase
        if phase == "Failed":
            return replace(facts, last_words=self._last_words(facts.obj))
        if phase in ("Pending", "Starting", "Running"):
            return self._on_cluster(facts, "waits for" if phase == "Pending" else "runs on")
        return facts

    def _service(self, facts: Facts) -> Facts:
        ready = facts.obj.status.phase == "Ready"
        return self._on_cluster(facts, "runs on" if ready else "waits for")

    def _on_cluster(self, facts: Facts, link: str) -> Facts:
        """Add the causes that keep the object's cluster, or its own nodes, from being as wanted."""
        name, team = facts.obj.spec.cluster, facts.obj.team
        if not name:
            return self._own_nodes(facts)
        cluster = self._platform.store.get_or_none(CLUSTER, team, str(name))
        if cluster is None:
            return facts  # its own status says so
        return self._depends(facts, cluster, link)

    def _own_nodes(self, facts: Facts) -> Facts:
        """Add the backend's evidence about the object's own nodes."""
        meta = facts.obj.metadata
        owner = self._platform.store.get(TEAM, "", facts.obj.team)
        nodes = facts.obj.spec.nodes
        backend = (nodes and nodes.backend) or owner.spec.backend
        try:
            reader = self._platform.readers(backend)
            port = reader.jobs if facts.obj.kind == "Job" else reader.services
            ref = ObjectRef(team=facts.obj.team, name=meta.name, uid=meta.uid)
            return replace(facts, evidence=port.evidence(ref) if port is not None else ())
        except RayplaneError as exc:
            return replace(facts, silence=str(exc))

    def _pipeline(self, facts: Facts) -> Facts:
        name = facts.obj.status.last_run
        if not name:
            return facts
        run = self._platform.store.get_or_none(RUN, facts.obj.team, str(name))
        if run is None:
            return facts
        return self._depends(facts, run, "last ran as" if run.status.phase == "Failed" else "runs as")

    def _run(self, facts: Facts) -> Facts:
        for step in facts.obj.status.steps:
            if step.phase == "Running" and step.job is not None:
                job = self._platform.store.get_or_none(JOB, facts.obj.team, step.job)
                if job is None:
                    continue
                with_causes = self._depends(facts, job, "waits for")
                if with_causes.depends:
                    return with_causes
        return facts

    def _depends(self, facts: Facts, other: AnyObject, link: str) -> Facts:
        causes = self.explain(other).causes
        if not causes:
            return facts
        return replace(facts, depends=causes, depends_on=title(other), link=link)

    def _last_words(self, job: Job) -> str:
        path = layout.job_log(job.team, job.metadata.uid)
        storage = self._platform.storage
        try:
            size = storage.size(path)
            data = storage.read_from(path, max(0, size - _TAIL), _TAIL)
        except (NotFound, InvalidInput):  # there is no log, or the job's code replaced it by something else
            return ""
        lines = [line for line in data.decode(errors="replace").splitlines() if line.strip()]
        return "\n".join(lines[-_LAST_LINES:])
