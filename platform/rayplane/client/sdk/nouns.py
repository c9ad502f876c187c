"""The attributes of a client for the nouns: the verbs that all have, and those of one alone."""

from __future__ import annotations

import codecs
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from typing import Any

import httpx

from rayplane import errors
from rayplane.client.sdk import waiting
from rayplane.client.sdk.answers import Items, header
from rayplane.client.sdk.paths import path_of, quoted
from rayplane.client.sdk.transport import Transport
from rayplane.client.sdk.waiting import PATIENCE, Progress
from rayplane.nouns import CLUSTER, DATASET, JOB, PIPELINE, TEAM
from rayplane.nouns.base import Object
from rayplane.nouns.cluster import ClusterStatus
from rayplane.nouns.dataset import DatasetVersion
from rayplane.nouns.noun_type import AnyNoun
from rayplane.nouns.team import Data
from rayplane.nouns.why import Explanation

_LOG_WAIT = 10
"""Seconds that the gateway may hold a request for more of a log (long polling)."""


class Noun:
    """The common verbs of one noun."""

    def __init__(self, transport: Transport, noun: AnyNoun) -> None:
        self._transport, self.type = transport, noun

    def apply(
        self,
        team: str,
        name: str,
        spec: Mapping[str, Any],
        labels: Mapping[str, str] | None = None,
        *,
        if_match: str | None = None,
    ) -> Object:
        """Create or change an object; returns it before it is reconciled. ``if_match``: the ETag it must have."""
        body = {"metadata": {"labels": dict(labels or {})}, "spec": dict(spec)}
        headers = {"If-Match": if_match} if if_match else None
        return self._transport.read(Object, "PUT", self._path(team, name), json_body=body, headers=headers)

    def get(self, team: str, name: str) -> Object:
        """One object; raises NotFound."""
        return self._transport.read(Object, "GET", self._path(team, name))

    def why(self, team: str, name: str) -> Explanation:
        """Explain why the object is not as wanted: ranked causes, or none if it is. Raises NotFound."""
        return self._transport.read(Explanation, "GET", f"{self._path(team, name)}/why")

    def list(self, team: str, *, labels: Mapping[str, str] | None = None) -> list[Object]:
        """All objects of the team, oldest first."""
        params = {"label": [f"{k}={v}" for k, v in labels.items()]} if labels else {}
        return [Object.model_validate(item) for item in self._transport.pages(self._path(team), params)]

    def delete(self, team: str, name: str) -> Object:
        """Ask for deletion; returns at once."""
        return self._transport.read(Object, "DELETE", self._path(team, name))

    def wait(
        self,
        team: str,
        name: str,
        *,
        phases: Collection[str] | None = None,
        timeout: float = 600.0,
        progress: Progress | None = None,
    ) -> Object:
        """Wait until the object is in one of ``phases`` (default: the settled ones of its kind) for its present spec.

        Raises Failed if it fails instead, Timeout after ``timeout`` seconds. ``progress`` is called at each poll.
        """
        return waiting.for_phase(
            lambda: self.get(team, name), phases, clock=self._transport.clock, timeout=timeout, progress=progress
        )

    def wait_deleted(self, team: str, name: str, *, uid: str | None = None, timeout: float = 300.0) -> None:
        """Wait until the object is gone; a new object of the same name does not count as the old one. Raises Timeout.

        ``uid`` is that of the object that ``delete`` returned; by default, that of the object first found.
        """
        waiting.for_deletion(
            lambda: self.get(team, name),
            f"{self.type.kind} '{team}/{name}'",
            uid=uid,
            clock=self._transport.clock,
            timeout=timeout,
        )

    def _path(self, team: str, name: str | None = None) -> str:
        return path_of(self.type, team, name)


class Teams(Noun):
    """Teams belong to no team: of the common verbs' two names the first may be left out, and is ignored if given."""

    def apply(
        self,
        team: str,
        name: str | None = None,
        spec: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
        *,
        if_match: str | None = None,
    ) -> Object:
        """Create or change a team: ``apply(name, spec=...)``."""
        return super().apply("", name or team, spec or {}, labels, if_match=if_match)

    def get(self, team: str, name: str | None = None) -> Object:
        """One team."""
        return super().get("", name or team)

    def why(self, team: str, name: str | None = None) -> Explanation:
        """Explain why the team is not as wanted."""
        return super().why("", name or team)

    def list(self, team: str = "", *, labels: Mapping[str, str] | None = None) -> list[Object]:
        """All teams."""
        return super().list("", labels=labels)

    def delete(self, team: str, name: str | None = None, *, data: Data | None = None) -> Object:
        """Ask for deletion. ``data`` says whether the team's data is archived (the default) or purged.

        The answer's status has that choice, and the name under which the records are kept. Raises Conflict while the
        team has clusters, services or unfinished work, and if it is already being deleted with the other choice.
        """
        query = {"data": data} if data is not None else {}
        return self._transport.read(Object, "DELETE", self._path("", name or team), params=query)


class Clusters(Noun):
    """Clusters, with their own verbs."""

    def suspend(self, team: str, name: str) -> Object:
        """Release the cluster's compute until a user resumes it; returns at once."""
        return self._post(team, name, "suspend")

    def resume(self, team: str, name: str) -> Object:
        """Resume the cluster, whether a user or the platform suspended it; returns at once."""
        return self._post(team, name, "resume")

    def extend(self, team: str, name: str, duration: str | float) -> Object:
        """Keep the cluster for a duration from now (``"2h"``, or seconds), even if it is idle or old."""
        return self._post(team, name, "extend", {"duration": duration})

    def reach(self, team: str, name: str, *, timeout: float = 600.0, progress: Progress | None = None) -> Object:
        """Wait until the cluster is ready, resuming it if the platform suspended it for idleness; reset its idle time.

        Raises Refused if a user suspended it, Failed if it fails, Timeout after ``timeout`` seconds.
        """
        cluster = self.get(team, name)
        status = ClusterStatus.model_validate(cluster.status)
        if cluster.spec.get("suspended"):
            raise errors.Refused(
                f"Cluster '{team}/{name}' was suspended by a person.",
                remedy=f"Resume it: rayplane cluster resume {name} --team {team}",
            )
        if status.suspension is not None:
            self.resume(team, name)
        elif status.idle_since is not None:
            with suppress(errors.Forbidden):  # a user who may only view the cluster can't reset its idle time
                self.resume(team, name)
        return self.wait(team, name, phases=("Ready",), timeout=timeout, progress=progress)

    def _post(self, team: str, name: str, verb: str, body: Mapping[str, Any] | None = None) -> Object:
        path = f"{self._path(team, name)}/{verb}"
        return self._transport.read(Object, "POST", path, json_body=body)


class Jobs(Noun):
    """Jobs, with their own verbs."""

    def submit(self, team: str, spec: Mapping[str, Any], name: str | None = None) -> Object:
        """Submit a job: one run of an entrypoint. Without ``name``, the gateway makes one."""
        body = {"metadata": {"name": name} if name else {}, "spec": dict(spec)}
        return self._transport.read(Object, "POST", self._path(team), json_body=body)

    def stop(self, team: str, name: str) -> Object:
        """Ask a job to stop."""
        return self._transport.read(Object, "POST", f"{self._path(team, name)}/stop")

    def logs(self, team: str, name: str, follow: bool = True, *, patience: float = PATIENCE) -> Iterator[str]:
        """The driver's log in pieces as it grows; with ``follow`` until the job has ended and its log is complete.

        While following, waits for a gateway that has answered before and is unreachable for up to ``patience`` seconds.
        """
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        clock, offset = self._transport.clock, 0

        def ask() -> tuple[httpx.Response, float]:
            """Ask for the log from ``offset`` on; returns the seconds that this took, too."""
            asked_at = clock.now()
            # The gateway holds the request until there is more; the pause below is for one that does not.
            params = {"offset": offset, **({"wait": _LOG_WAIT} if follow else {})}
            answer = self._transport.request("GET", f"{self._path(team, name)}/logs", params=params)
            return answer, clock.now() - asked_at

        look = waiting.patient(ask, clock, patience=patience) if follow else ask
        while True:
            answer, seconds = look()
            following = int(header(answer, "X-Next-Offset"))
            if text := decoder.decode(answer.content):
                yield text
            moved, offset = following > offset, following
            if not moved:
                if not follow or header(answer, "X-Log-Complete") == "true":
                    return
                if seconds < 0.5:  # an older gateway does not hold the request
                    clock.sleep(0.5)


class Pipelines(Noun):
    """Pipelines, with their runs."""

    def run(self, team: str, name: str, parameters: Mapping[str, str] | None = None, force: bool = False) -> Object:
        """Ask for a run; ``force`` runs every step, even if its result is cached."""
        body = {"parameters": dict(parameters or {}), "force": force}
        return self._transport.read(Object, "POST", f"{self._path(team, name)}/runs", json_body=body)

    def runs(self, team: str, name: str) -> list[Object]:
        """The pipeline's runs, oldest first."""
        return [Object.model_validate(item) for item in self._transport.pages(f"{self._path(team, name)}/runs", {})]

    def get_run(self, team: str, pipeline: str, run: str) -> Object:
        """One run with its steps."""
        return self._transport.read(Object, "GET", f"{self._path(team, pipeline)}/runs/{quoted(run)}")

    def stop_run(self, team: str, pipeline: str, run: str) -> Object:
        """Ask a run to stop."""
        return self._transport.read(Object, "POST", f"{self._path(team, pipeline)}/runs/{quoted(run)}/stop")

    def wait_run(
        self,
        team: str,
        pipeline: str,
        run: str,
        *,
        phases: Collection[str] | None = None,
        timeout: float = 24 * 3600.0,
        progress: Progress | None = None,
    ) -> Object:
        """Wait until a run has ended, as ``wait`` does."""
        return waiting.for_phase(
            lambda: self.get_run(team, pipeline, run),
            phases,
            clock=self._transport.clock,
            timeout=timeout,
            progress=progress,
        )


class Datasets(Noun):
    """Datasets, with their versions."""

    def versions(self, team: str, name: str) -> list[DatasetVersion]:
        """Versions, newest first."""
        return self._transport.read(Items[DatasetVersion], "GET", f"{self._path(team, name)}/versions").items

    def version(self, team: str, name: str, version: str = "latest") -> DatasetVersion:
        """One version."""
        return self._transport.read(DatasetVersion, "GET", f"{self._path(team, name)}/versions/{quoted(version)}")


OWN_VERBS: Mapping[str, type[Noun]] = {
    TEAM.kind: Teams,
    CLUSTER.kind: Clusters,
    JOB.kind: Jobs,
    PIPELINE.kind: Pipelines,
    DATASET.kind: Datasets,
}
"""The class of each noun that has verbs of its own; that of the others is ``Noun``."""
