"""The gateway's API in Python: one attribute per noun, plain objects out, errors of our own tree."""

from __future__ import annotations

import codecs
import json
import os
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal
from urllib.parse import quote

import httpx

from rayplane import errors
from rayplane.client import packaging
from rayplane.nouns import NOUNS, RUN, by_kind
from rayplane.nouns.base import Document, NounType, Object, parse
from rayplane.nouns.cluster import ClusterStatus, ClusterUsage, Lease
from rayplane.nouns.dataset import DatasetVersion
from rayplane.nouns.events import Edge
from rayplane.nouns.job import TERMINAL
from rayplane.nouns.plan import Plan
from rayplane.nouns.why import Explanation
from rayplane.processes import read_json
from rayplane.settings import Home, find_home, read_secret

_TIMEOUT = httpx.Timeout(30.0, connect=5.0, write=300.0)
_RETRIES = 2
PATIENCE = 120.0
"""Seconds for which a gateway that has answered may be away, restarting say, before a wait ends."""
_SETTLED: dict[str, frozenset[str]] = {
    "Cluster": frozenset({"Ready", "Suspended"}),
    "Job": TERMINAL,
    "PipelineRun": TERMINAL,
}
Progress = Callable[[Object], None]


@dataclass(frozen=True)
class Change:
    """What ``apply`` did, or would do, to one object."""

    kind: str
    team: str
    name: str
    change: Literal["created", "changed", "unchanged"]

    def __str__(self) -> str:
        where = f"{self.team}/{self.name}" if self.team else self.name
        return f"{self.kind.lower()} {where} {self.change}"


class Client:
    """A connection to one gateway.

    ``url`` defaults to RAYPLANE_URL, ``token_path`` to RAYPLANE_TOKEN_PATH, both else to what `rayplane up` wrote into
    the home. Nothing is read or sent before the first call. Errors are those of ``rayplane.errors``; a gateway that
    can't be reached is Unavailable.
    """

    def __init__(self, url: str | None = None, token_path: str | Path | None = None) -> None:
        self._given_url, self._given_token = url, token_path
        self._http: httpx.Client | None = None
        self.teams = Teams(self, by_kind("Team"))
        self.clusters = Clusters(self, by_kind("Cluster"))
        self.jobs = Jobs(self, by_kind("Job"))
        self.pipelines = Pipelines(self, by_kind("Pipeline"))
        self.datasets = Datasets(self, by_kind("Dataset"))
        self.features = Noun(self, by_kind("Feature"))
        self.models = Noun(self, by_kind("Model"))
        self.services = Noun(self, by_kind("Service"))
        self.packages = Packages(self)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the client may be used again."""
        if self._http is not None:
            self._http.close()
            self._http = None

    @property
    def url(self) -> str:
        """The gateway's URL; raises Unavailable if none is known."""
        found = self._given_url or os.environ.get("RAYPLANE_URL")
        if not found:
            home = Home(find_home())
            found = str(read_json(home.state).get("gateway_url") or "")
            if not found:
                raise errors.Unavailable(f"No platform was started in '{home.path}'.", remedy="Run 'rayplane up'.")
        return found.rstrip("/")

    @property
    def token_path(self) -> Path:
        """Where the token is kept."""
        return Path(self._given_token or os.environ.get("RAYPLANE_TOKEN_PATH") or Home(find_home()).token)

    @property
    def token(self) -> str:
        """The token; raises InvalidInput if its file is missing or others may read it."""
        return read_secret(self.token_path)

    def info(self) -> dict[str, Any]:
        """Versions, URLs and who asks."""
        found: dict[str, Any] = self.json("GET", "/v1/info")
        return found

    def noun(self, noun: NounType) -> Noun:
        """The attribute of a noun."""
        found: Noun = getattr(self, noun.plural)
        return found

    def apply_documents(
        self, documents: list[Document], *, team: str | None = None, dry_run: bool = False
    ) -> list[Change]:
        """Make the platform as the documents say, in the order of the table of nouns.

        ``team`` is for those that name none. A ``package`` that is a folder's path is uploaded and replaced by its
        content address. All are checked, here and by the gateway, before any is written: a wrong one raises, and
        nothing was made.
        """
        wanted = [_Wanted.of(noun, document, team) for noun, document in _checked(documents)]
        # What lives in a team, or on a cluster, that these documents make can't be checked by the gateway before that
        # team or cluster is there.
        new_teams: set[str] = set()
        new_clusters: set[tuple[str, str]] = set()
        planned = []
        for item in wanted:
            if item.team in new_teams or (item.team, item.spec.get("cluster")) in new_clusters:
                planned.append(Change(item.noun.kind, item.team, item.name, "created"))
            else:
                planned.append(self._put(item, self._known_spec(item), dry_run=True))
            if planned[-1].change != "created":
                continue
            if item.noun.kind == "Team":
                new_teams.add(item.name)
            elif item.noun.kind == "Cluster":
                new_clusters.add((item.team, item.name))
        if dry_run:
            return planned
        return [self._put(item, self._uploaded_spec(item), dry_run=False) for item in wanted]

    def plan(self, documents: list[Document], *, team: str | None = None) -> Plan:
        """What applying the documents together would change, what forbids it, what it may cost; nothing is written.

        ``team`` is for those that name none. A ``package`` that is a folder's path counts as uploaded.
        """
        wanted = [_Wanted.of(by_kind(document.kind), document, team) for document in documents]
        sent = [
            {
                "kind": item.noun.kind,
                "metadata": {"name": item.name, "labels": item.labels, **({"team": item.team} if item.team else {})},
                "spec": self._known_spec(item),
            }
            for item in wanted
        ]
        return Plan.model_validate(self.json("POST", "/v1/plan", json_body={"documents": sent}))

    def lineage(self, team: str, node: str, direction: Literal["up", "down"] = "up") -> list[Edge]:
        """Edges reachable from a node."""
        found = self.json("GET", f"/v1/teams/{_q(team)}/lineage", params={"node": node, "direction": direction})
        return [Edge.model_validate(item) for item in found["items"]]

    def leases(self, team: str, *, open_only: bool = False) -> list[Lease]:
        """The ledger: compute that the team held or holds."""
        path = f"/v1/teams/{_q(team)}/leases"
        return [Lease.model_validate(item) for item in self.pages(path, {"open_only": str(open_only).lower()})]

    def usage(self, team: str, *, since: datetime | None = None, until: datetime | None = None) -> list[ClusterUsage]:
        """What each cluster of the team held between two instants, in resource-seconds, also of those that are gone."""
        span = {key: at.isoformat() for key, at in (("since", since), ("until", until)) if at is not None}
        found = self.json("GET", f"/v1/teams/{_q(team)}/usage", params=span)
        return [ClusterUsage.model_validate(item) for item in found["items"]]

    def audit(self, team: str) -> list[dict[str, Any]]:
        """The audit log."""
        return list(self.pages(f"/v1/teams/{_q(team)}/audit", {}))

    def pages(self, path: str, params: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Every item of a list, page by page."""
        cursor: str | None = None
        while True:
            page = self.json("GET", path, params={**params, "limit": 500, **({"cursor": cursor} if cursor else {})})
            yield from page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def json(self, method: str, path: str, **options: Any) -> Any:
        """The JSON that a request answers with."""
        return self.request(method, path, **options).json()

    def request(
        self,
        method: str,
        path: str,
        *,
        json_body: Any = None,
        content: bytes | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """One request; a write carries an idempotency key, so that a lost answer is asked for again without harm."""
        url = self.url + path  # before the token: where no platform was started, that is what is wrong
        sent = {"Authorization": f"Bearer {self.token}", **(headers or {})}
        if method in ("POST", "PUT", "DELETE") and content is None:
            sent.setdefault("Idempotency-Key", uuid.uuid4().hex)
        for attempt in range(_RETRIES + 1):
            try:
                answer = self._connection().request(
                    method, url, json=json_body, content=content, params=params, headers=sent
                )
                break
            except httpx.ConnectError as exc:
                raise self._unreachable(exc) from exc
            except httpx.TimeoutException as exc:
                raise errors.Timeout(
                    f"The gateway at {self.url} did not answer {method} {path} in time.", remedy="Try again."
                ) from exc
            except httpx.TransportError as exc:
                if attempt == _RETRIES:
                    raise self._unreachable(exc) from exc
                time.sleep(0.2 * (attempt + 1))
        if answer.is_error:
            raise _error_of(answer)
        return answer

    def _known_spec(self, item: _Wanted) -> dict[str, Any]:
        if item.folder is None:
            return item.spec
        address, _ = packaging.pack(item.folder)
        # A package that is not there yet would be refused: the rest of the spec is checked without it.
        known = self.packages.has(item.team, address)
        return {**item.spec, "package": address if known else None}

    def _uploaded_spec(self, item: _Wanted) -> dict[str, Any]:
        if item.folder is None:
            return item.spec
        return {**item.spec, "package": self.packages.upload(item.team, item.folder)}

    def _put(self, item: _Wanted, spec: dict[str, Any], *, dry_run: bool) -> Change:
        answer = self.request(
            "PUT",
            _path(item.noun, item.team, item.name),
            json_body={"metadata": {"labels": item.labels}, "spec": spec},
            params={"dry_run": "true"} if dry_run else None,
        )
        change: Any = answer.headers["X-Change"]
        return Change(item.noun.kind, item.team, item.name, change)

    def _connection(self) -> httpx.Client:
        if self._http is None:
            # No proxy of the environment: the token is for the gateway alone.
            self._http = httpx.Client(timeout=_TIMEOUT, trust_env=False)
        return self._http

    def _unreachable(self, exc: Exception) -> errors.Unavailable:
        return errors.Unavailable(f"The gateway at {self.url} can't be reached ({exc}).", remedy="Run 'rayplane up'.")


class Noun:
    """The common verbs of one noun."""

    def __init__(self, client: Client, noun: NounType) -> None:
        self._client, self.type = client, noun

    def apply(
        self,
        team: str,
        name: str,
        spec: Mapping[str, Any],
        labels: Mapping[str, str] | None = None,
        *,
        if_match: str | None = None,
    ) -> Object:
        """Make it so; returns the object, on which there may be work to do. ``if_match``: the ETag it must have."""
        body = {"metadata": {"labels": dict(labels or {})}, "spec": dict(spec)}
        headers = {"If-Match": if_match} if if_match else None
        return Object.model_validate(self._client.json("PUT", self._path(team, name), json_body=body, headers=headers))

    def get(self, team: str, name: str) -> Object:
        """One object; raises NotFound."""
        return Object.model_validate(self._client.json("GET", self._path(team, name)))

    def why(self, team: str, name: str) -> Explanation:
        """What holds the object up, ranked; no causes if it is as wanted. Raises NotFound."""
        return Explanation.model_validate(self._client.json("GET", f"{self._path(team, name)}/why"))

    def list(self, team: str, *, labels: Mapping[str, str] | None = None) -> list[Object]:
        """All objects of the team, oldest first."""
        params = {"label": [f"{k}={v}" for k, v in labels.items()]} if labels else {}
        return [Object.model_validate(item) for item in self._client.pages(self._path(team), params)]

    def delete(self, team: str, name: str) -> Object:
        """Ask for deletion; returns at once."""
        return Object.model_validate(self._client.json("DELETE", self._path(team, name)))

    def wait(
        self,
        team: str,
        name: str,
        *,
        phases: Collection[str] | None = None,
        timeout: float = 600.0,
        progress: Progress | None = None,
    ) -> Object:
        """Wait until the object is in one of ``phases`` (default: where its kind settles) for its present spec.

        Raises Failed if it fails instead, Timeout after ``timeout`` seconds. ``progress`` gets every object seen.
        """
        return _wait(lambda: self.get(team, name), phases, timeout, progress)

    def wait_deleted(self, team: str, name: str, *, timeout: float = 300.0) -> None:
        """Wait until nothing of that name is there; raises Timeout."""
        deadline = time.monotonic() + timeout
        look = patient(lambda: self.get(team, name), deadline)
        while time.monotonic() < deadline:
            try:
                look()
            except errors.NotFound:
                return
            time.sleep(0.5)
        raise errors.Timeout(f"{self.type.kind} '{team}/{name}' is still there after {timeout:g}s.", remedy="Wait on.")

    def _path(self, team: str, name: str | None = None) -> str:
        return _path(self.type, team, name)


class Teams(Noun):
    """Teams belong to no team: the first argument of the common verbs is ignored where it is given twice."""

    def apply(
        self,
        team: str,
        name: str | None = None,
        spec: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
        *,
        if_match: str | None = None,
    ) -> Object:
        """Make a team: ``apply(name, spec=...)``."""
        return super().apply("", name or team, spec or {}, labels, if_match=if_match)

    def get(self, team: str, name: str | None = None) -> Object:
        """One team."""
        return super().get("", name or team)

    def why(self, team: str, name: str | None = None) -> Explanation:
        """What holds the team up."""
        return super().why("", name or team)

    def list(self, team: str = "", *, labels: Mapping[str, str] | None = None) -> list[Object]:
        """All teams."""
        return super().list("", labels=labels)

    def delete(self, team: str, name: str | None = None) -> Object:
        """Ask for deletion."""
        return super().delete("", name or team)


class Clusters(Noun):
    """Clusters, with their own verbs."""

    def suspend(self, team: str, name: str) -> Object:
        """Take its compute back until somebody resumes it; returns at once."""
        return self._post(team, name, "suspend")

    def resume(self, team: str, name: str) -> Object:
        """Give it its compute again, whoever suspended it; returns at once."""
        return self._post(team, name, "resume")

    def extend(self, team: str, name: str, duration: str | float) -> Object:
        """Keep it for so long from now (``"2h"``, or seconds), however idle or old it is."""
        return self._post(team, name, "extend", {"duration": duration})

    def reach(self, team: str, name: str, *, timeout: float = 600.0, progress: Progress | None = None) -> Object:
        """Wait until it is ready, resuming it if the platform suspended it for idleness. Its idle time begins anew.

        Raises Refused for one that a person suspended, Failed if it fails, Timeout after ``timeout`` seconds.
        """
        found = self.get(team, name)
        status = ClusterStatus.model_validate(found.status)
        if found.spec.get("suspended"):
            raise errors.Refused(
                f"Cluster '{team}/{name}' was suspended by a person.",
                remedy=f"Resume it: rayplane cluster resume {name} --team {team}",
            )
        if status.suspension is not None:
            self.resume(team, name)
        elif status.idle_since is not None:
            with suppress(errors.Forbidden):  # who may only look at it can't keep it either
                self.resume(team, name)
        return self.wait(team, name, phases=("Ready",), timeout=timeout, progress=progress)

    def _post(self, team: str, name: str, verb: str, body: Mapping[str, Any] | None = None) -> Object:
        path = f"{self._path(team, name)}/{verb}"
        return Object.model_validate(self._client.json("POST", path, json_body=body))


class Jobs(Noun):
    """Jobs, with their own verbs."""

    def submit(self, team: str, spec: Mapping[str, Any], name: str | None = None) -> Object:
        """Ask for one run of an entrypoint; the name is made if none is given."""
        body = {"metadata": {"name": name} if name else {}, "spec": dict(spec)}
        return Object.model_validate(self._client.json("POST", self._path(team), json_body=body))

    def stop(self, team: str, name: str) -> Object:
        """Ask a job to stop."""
        return Object.model_validate(self._client.json("POST", f"{self._path(team, name)}/stop"))

    def logs(self, team: str, name: str, follow: bool = True, *, patience: float = PATIENCE) -> Iterator[str]:
        """The driver's log in pieces as it grows; with ``follow`` until the job has ended and its log is complete.

        While following, a gateway that is away for less than ``patience`` seconds is waited for.
        """
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        offset, seen = 0, time.monotonic()
        while True:
            try:
                answer = self._client.request("GET", f"{self._path(team, name)}/logs", params={"offset": offset})
            except errors.Unavailable:
                if not follow or time.monotonic() - seen > patience:
                    raise
                time.sleep(1.0)
                continue
            seen, following = time.monotonic(), int(answer.headers["X-Next-Offset"])
            if text := decoder.decode(answer.content):
                yield text
            moved, offset = following > offset, following
            if not moved:
                if not follow or answer.headers["X-Log-Complete"] == "true":
                    return
                time.sleep(0.5)


class Pipelines(Noun):
    """Pipelines, with their runs."""

    def run(self, team: str, name: str, parameters: Mapping[str, str] | None = None, force: bool = False) -> Object:
        """Ask for a run; ``force`` runs every step anew."""
        body = {"parameters": dict(parameters or {}), "force": force}
        return Object.model_validate(self._client.json("POST", f"{self._path(team, name)}/runs", json_body=body))

    def runs(self, team: str, name: str) -> list[Object]:
        """The pipeline's runs, oldest first."""
        return [Object.model_validate(item) for item in self._client.pages(f"{self._path(team, name)}/runs", {})]

    def get_run(self, team: str, pipeline: str, run: str) -> Object:
        """One run with its steps."""
        return Object.model_validate(self._client.json("GET", f"{self._path(team, pipeline)}/runs/{_q(run)}"))

    def stop_run(self, team: str, pipeline: str, run: str) -> Object:
        """Ask a run to stop."""
        return Object.model_validate(self._client.json("POST", f"{self._path(team, pipeline)}/runs/{_q(run)}/stop"))

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
        """Wait until a run has ended, however it did."""
        return _wait(lambda: self.get_run(team, pipeline, run), phases, timeout, progress)


class Datasets(Noun):
    """Datasets, with their versions."""

    def versions(self, team: str, name: str) -> list[DatasetVersion]:
        """Versions, newest first."""
        found = self._client.json("GET", f"{self._path(team, name)}/versions")
        return [DatasetVersion.model_validate(item) for item in found["items"]]

    def version(self, team: str, name: str, version: str = "latest") -> DatasetVersion:
        """One version."""
        return DatasetVersion.model_validate(
            self._client.json("GET", f"{self._path(team, name)}/versions/{_q(version)}")
        )


class Packages:
    """Code packages."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def has(self, team: str, address: str) -> bool:
        """Whether the team has a package of this content address."""
        try:
            self._client.request("HEAD", self._path(team, address))
        except errors.NotFound:
            return False
        return True

    def upload(self, team: str, folder: Path | str) -> str:
        """Package a folder and keep it unless it is there; returns its content address, ``sha256:<hex>``."""
        address, data = packaging.pack(folder)
        if not self.has(team, address):
            headers = {"Content-Type": "application/zip"}
            self._client.request("PUT", self._path(team, address), content=data, headers=headers)
        return address

    def _path(self, team: str, address: str) -> str:
        return f"/v1/teams/{_q(team)}/packages/{address.removeprefix('sha256:')}"


def patient(get: Callable[[], Object], deadline: float) -> Callable[[], Object]:
    """``get``, which once it has had an answer waits for a gateway that is away: PATIENCE, or until ``deadline``.

    The first call waits for nobody: where no gateway runs, that is said at once.
    """
    seen: float | None = None

    def look() -> Object:
        nonlocal seen
        while True:
            try:
                obj = get()
            except errors.Unavailable:
                now = time.monotonic()
                if seen is None or now - seen > PATIENCE or now > deadline:
                    raise
                time.sleep(1.0)
                continue
            seen = time.monotonic()
            return obj

    return look


def _wait(
    get: Callable[[], Object], phases: Collection[str] | None, timeout: float, progress: Progress | None
) -> Object:
    began = time.monotonic()
    deadline = began + timeout
    look = patient(get, deadline)
    while True:
        obj = look()
        if progress is not None:
            progress(obj)
        phase, wanted = _phase(obj), phases or _SETTLED.get(obj.kind, frozenset({"Ready"}))
        current = phase in TERMINAL or _seen_generation(obj) >= obj.metadata.generation
        if phase in wanted and current:
            return obj
        where = (
            f"{obj.kind} '{obj.metadata.team}/{obj.metadata.name}'"
            if obj.metadata.team
            else f"{obj.kind} '{obj.metadata.name}'"
        )
        if phase == "Failed" and current and _seen_generation(obj) >= obj.metadata.generation:
            raise errors.Failed(f"{where} failed: {why(obj) or 'no reason was given'}.")
        if time.monotonic() > deadline:
            raise errors.Timeout(
                f"{where} is {phase} after {timeout:g}s{': ' + why(obj) if why(obj) else ''}.",
                remedy="Wait on, or delete it.",
            )
        # A small part of what was waited already, so that knowing it late never counts for much.
        time.sleep(min(max((time.monotonic() - began) / 40, 0.2), 2.0))


def why(obj: Object) -> str:
    """What the status says of the state, without a final full stop: its message, or its first false condition's."""
    text = str(obj.status.get("message") or "")
    if not text:
        false = (c for c in obj.status.get("conditions", []) if c.get("status") != "True" and c.get("message"))
        text = next((str(c["message"]) for c in false), "")
    return text.rstrip(".")


def _phase(obj: Object) -> str:
    return str(obj.status.get("phase", "Pending"))


def _seen_generation(obj: Object) -> int:
    return int(obj.status.get("observed_generation", 0))


def _checked(documents: list[Document]) -> list[tuple[NounType, Document]]:
    wrong, parsed = [], []
    for document in documents:
        try:
            noun = by_kind(document.kind)
            if noun is RUN:
                raise errors.InvalidSpec("kind: a PipelineRun is not applied.", remedy="Run 'rayplane pipeline run'.")
            parse(noun.spec, document.spec, noun.singular)
            parsed.append((noun, document))
        except errors.InvalidSpec as exc:
            wrong.append(f"{document.kind} '{document.metadata.name}': {exc}")
    if wrong:
        raise errors.InvalidSpec("; ".join(wrong), errors=wrong)
    order = {noun.kind: place for place, noun in enumerate(NOUNS)}
    return sorted(parsed, key=lambda pair: order[pair[0].kind])


@dataclass(frozen=True)
class _Wanted:
    noun: NounType
    team: str
    name: str
    labels: dict[str, str]
    spec: dict[str, Any]
    folder: Path | None
    """Folder to upload as the spec's package."""

    @classmethod
    def of(cls, noun: NounType, document: Document, team: str | None) -> _Wanted:
        of = (document.metadata.team or team) if noun.team_scoped else ""
        if of is None:
            raise errors.InvalidSpec(
                f"{noun.kind} '{document.metadata.name}' names no team.", remedy="Set metadata.team, or say --team."
            )
        package = document.spec.get("package")
        folder = Path(package) if package and not packaging.is_address(package) else None
        return cls(noun, of, document.metadata.name, document.metadata.labels, document.spec, folder)


def _path(noun: NounType, team: str, name: str | None = None) -> str:
    base = f"/v1/teams/{_q(team)}/{noun.plural}" if noun.team_scoped else f"/v1/{noun.plural}"
    return base if name is None else f"{base}/{_q(name)}"


def _q(part: str) -> str:
    return quote(part, safe="")


def _error_of(answer: httpx.Response) -> errors.RayplaneError:
    try:
        problem = answer.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        problem = None
    if not isinstance(problem, dict):
        # A HEAD has no body; anything else comes from a server that is not the gateway.
        problem = {"status": answer.status_code, "detail": f"{answer.request.url} answered {answer.status_code}."}
    return errors.from_problem(problem)


__all__ = ["Change", "Client", "Noun", "Object", "why"]
