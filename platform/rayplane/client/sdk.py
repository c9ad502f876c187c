"""The gateway's API in Python: one attribute per noun, plain objects out, errors of our own tree."""

from __future__ import annotations

import codecs
import math
import os
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from rayplane import errors
from rayplane.client import packaging
from rayplane.nouns import NOUNS, RUN, by_kind
from rayplane.nouns.base import Document, NounType, Object, check_json, parse
from rayplane.nouns.cluster import ClusterStatus, ClusterUsage, Lease
from rayplane.nouns.dataset import DatasetVersion
from rayplane.nouns.events import Edge
from rayplane.nouns.job import TERMINAL
from rayplane.nouns.plan import Plan
from rayplane.nouns.team import Data
from rayplane.nouns.why import Explanation
from rayplane.processes import read_json
from rayplane.settings import Home, find_home, read_secret

_TIMEOUT = httpx.Timeout(30.0, connect=5.0, write=300.0)
_RETRIES = 2
_LOG_WAIT = 10
"""Seconds for which the gateway may hold a question for more of a log."""
PATIENCE = 120.0
"""Seconds for which a gateway that has answered may be away, restarting say, before a wait ends."""
_SETTLED: dict[str, frozenset[str]] = {
    "Cluster": frozenset({"Ready", "Suspended"}),
    "Job": TERMINAL,
    "PipelineRun": TERMINAL,
}
Progress = Callable[[Object], None]
M = TypeVar("M", bound=BaseModel)


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
        """The gateway's URL; raises Unavailable if none is known, InvalidInput for what is no URL."""
        return _checked_url(self._given_url or os.environ.get("RAYPLANE_URL") or _started_url(Home(find_home())))

    @property
    def token_path(self) -> Path:
        """Where the token is kept."""
        return Path(self._given_token or os.environ.get("RAYPLANE_TOKEN_PATH") or Home(find_home()).token)

    @property
    def token(self) -> str:
        """The token; raises InvalidInput if its file is missing, others may read it, or it holds no token."""
        text = read_secret(self.token_path)
        if not text or not text.isascii() or not text.isprintable() or " " in text:
            # What is in it is not said: it may be a secret all the same.
            raise errors.InvalidInput(
                f"Secret file '{self.token_path}' holds no token: a token is one line of letters, digits and signs.",
                remedy="Write the token alone into it, or name another file by RAYPLANE_TOKEN_PATH.",
            )
        return text

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
        content address. All are checked together, here and by the gateway's plan, before any is written: a wrong one
        raises, and nothing was made. Where a write fails all the same, the error says what was made before it.
        """
        wanted = [_Wanted.of(noun, document, team) for noun, document in _checked(documents)]
        packed = self._packed(wanted)
        planned = self._plan(wanted, packed)
        _require_allowed(planned)
        if dry_run:
            return [_change(item.kind, item.team, item.name, item.change) for item in planned.documents]
        done: list[Change] = []
        for item in wanted:
            try:
                done.append(self._put(item, self._uploaded_spec(item, packed)))
            except errors.RayplaneError as exc:
                made = [str(change) for change in done if change.change != "unchanged"]
                if not made:
                    raise
                raise _half_made(exc, made) from exc
        return done

    def plan(self, documents: list[Document], *, team: str | None = None) -> Plan:
        """What applying the documents together would change, what forbids it, what it may cost; nothing is written.

        ``team`` is for those that name none. A ``package`` that is a folder's path counts as uploaded.
        """
        wanted = [_Wanted.of(by_kind(document.kind), document, team) for document in documents]
        return self._plan(wanted, self._packed(wanted))

    def lineage(self, team: str, node: str, direction: Literal["up", "down"] = "up") -> list[Edge]:
        """Edges reachable from a node."""
        params = {"node": node, "direction": direction}
        return self.read(_Items[Edge], "GET", f"/v1/teams/{_q(team)}/lineage", params=params).items

    def leases(self, team: str, *, open_only: bool = False) -> list[Lease]:
        """The ledger: compute that the team held or holds."""
        path = f"/v1/teams/{_q(team)}/leases"
        return [Lease.model_validate(item) for item in self.pages(path, {"open_only": str(open_only).lower()})]

    def usage(self, team: str, *, since: datetime | None = None, until: datetime | None = None) -> list[ClusterUsage]:
        """What each cluster of the team held between two instants, in resource-seconds, also of those that are gone."""
        span = {key: at.isoformat() for key, at in (("since", since), ("until", until)) if at is not None}
        return self.read(_Items[ClusterUsage], "GET", f"/v1/teams/{_q(team)}/usage", params=span).items

    def audit(
        self, team: str | None = None, *, since: datetime | None = None, action: str | None = None
    ) -> Iterator[dict[str, Any]]:
        """The audit log, newest first, page by page: a team's, or (for admins of the platform) that of all."""
        given = (("since", since and since.isoformat()), ("action", action))
        path = "/v1/audit" if team is None else f"/v1/teams/{_q(team)}/audit"
        return self.pages(path, {key: value for key, value in given if value is not None})

    def pages(self, path: str, params: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Every item of a list, page by page."""
        cursor: str | None = None
        while True:
            asked = {**params, "limit": 500, **({"cursor": cursor} if cursor else {})}
            page = self.read(_Page, "GET", path, params=asked)
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return

    def json(self, method: str, path: str, **options: Any) -> Any:
        """The JSON that a request answers with; raises Unavailable if it is none."""
        answer = self.request(method, path, **options)
        try:
            return answer.json()
        except ValueError as exc:
            raise _strange(answer) from exc

    def read(self, model: type[M], method: str, path: str, **options: Any) -> M:
        """A request's answer as ``model``; raises Unavailable if it is none, so that another server answered."""
        answer = self.request(method, path, **options)
        try:
            return model.model_validate_json(answer.content)
        except ValidationError as exc:
            raise _strange(answer) from exc

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
            except httpx.RequestError as exc:  # of the transport, or of an answer that is encoded wrongly
                if attempt == _RETRIES:
                    raise self._unreachable(exc) from exc
                time.sleep(0.2 * (attempt + 1))
        if not answer.is_success:
            raise _error_of(answer)
        return answer

    def _packed(self, wanted: list[_Wanted]) -> dict[Path, tuple[str, bytes]]:
        """(content address, zip) of each folder that is named, once: what is planned is what is uploaded."""
        folders = {item.folder for item in wanted if item.folder is not None}
        return {folder: self.packages.pack(folder) for folder in folders}

    def _plan(self, wanted: list[_Wanted], packed: Mapping[Path, tuple[str, bytes]]) -> Plan:
        sent = [
            {
                "kind": item.noun.kind,
                "metadata": {"name": item.name, "labels": item.labels, **({"team": item.team} if item.team else {})},
                "spec": self._known_spec(item, packed),
            }
            for item in wanted
        ]
        return self.read(Plan, "POST", "/v1/plan", json_body={"documents": sent})

    def _known_spec(self, item: _Wanted, packed: Mapping[Path, tuple[str, bytes]]) -> dict[str, Any]:
        if item.folder is None:
            return item.spec
        address, _ = packed[item.folder]
        # A package that is not there yet would be refused: the rest of the spec is checked without it.
        known = self.packages.has(item.team, address)
        return {**item.spec, "package": address if known else None}

    def _uploaded_spec(self, item: _Wanted, packed: Mapping[Path, tuple[str, bytes]]) -> dict[str, Any]:
        if item.folder is None:
            return item.spec
        address, data = packed[item.folder]
        self.packages.keep(item.team, address, data)
        return {**item.spec, "package": address}

    def _put(self, item: _Wanted, spec: dict[str, Any]) -> Change:
        answer = self.request(
            "PUT",
            _path(item.noun, item.team, item.name),
            json_body={"metadata": {"labels": item.labels}, "spec": spec},
        )
        return _change(item.noun.kind, item.team, item.name, _header(answer, "X-Change"))

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
        return self._client.read(Object, "PUT", self._path(team, name), json_body=body, headers=headers)

    def get(self, team: str, name: str) -> Object:
        """One object; raises NotFound."""
        return self._client.read(Object, "GET", self._path(team, name))

    def why(self, team: str, name: str) -> Explanation:
        """What holds the object up, ranked; no causes if it is as wanted. Raises NotFound."""
        return self._client.read(Explanation, "GET", f"{self._path(team, name)}/why")

    def list(self, team: str, *, labels: Mapping[str, str] | None = None) -> list[Object]:
        """All objects of the team, oldest first."""
        params = {"label": [f"{k}={v}" for k, v in labels.items()]} if labels else {}
        return [Object.model_validate(item) for item in self._client.pages(self._path(team), params)]

    def delete(self, team: str, name: str) -> Object:
        """Ask for deletion; returns at once."""
        return self._client.read(Object, "DELETE", self._path(team, name))

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

    def wait_deleted(self, team: str, name: str, *, uid: str | None = None, timeout: float = 300.0) -> None:
        """Wait until the object is gone: what has its name then, made anew, is another one. Raises Timeout.

        ``uid`` is that of the object that ``delete`` answered with; by default, of the one that is there first.
        """
        deadline = time.monotonic() + timeout
        look = patient(lambda: self.get(team, name), deadline)
        while time.monotonic() < deadline:
            try:
                found = look().metadata.uid
            except errors.NotFound:
                return
            uid = uid or found
            if found != uid:
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

    def delete(self, team: str, name: str | None = None, *, data: Data | None = None) -> Object:
        """Ask for deletion. ``data``: what becomes of what the team has; archived unless it is to be purged.

        The answer's status says which, and under which name the records are kept. Raises Conflict while the team has
        clusters, services or work under way, and if it is being deleted with the other already.
        """
        query = {"data": data} if data is not None else {}
        return self._client.read(Object, "DELETE", self._path("", name or team), params=query)


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
        return self._client.read(Object, "POST", path, json_body=body)


class Jobs(Noun):
    """Jobs, with their own verbs."""

    def submit(self, team: str, spec: Mapping[str, Any], name: str | None = None) -> Object:
        """Ask for one run of an entrypoint; the name is made if none is given."""
        body = {"metadata": {"name": name} if name else {}, "spec": dict(spec)}
        return self._client.read(Object, "POST", self._path(team), json_body=body)

    def stop(self, team: str, name: str) -> Object:
        """Ask a job to stop."""
        return self._client.read(Object, "POST", f"{self._path(team, name)}/stop")

    def logs(self, team: str, name: str, follow: bool = True, *, patience: float = PATIENCE) -> Iterator[str]:
        """The driver's log in pieces as it grows; with ``follow`` until the job has ended and its log is complete.

        While following, a gateway that has answered and is away for less than ``patience`` seconds is waited for.
        """
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        offset, seen = 0, float("-inf")
        while True:
            asked_at = time.monotonic()
            try:
                # Held by the gateway until there is more: what it does not do, the pause below does.
                asked = {"offset": offset, **({"wait": _LOG_WAIT} if follow else {})}
                answer = self._client.request("GET", f"{self._path(team, name)}/logs", params=asked)
            except errors.Unavailable:
                if not follow or time.monotonic() - seen > patience:
                    raise
                time.sleep(1.0)
                continue
            seen, following = time.monotonic(), int(_header(answer, "X-Next-Offset"))
            if text := decoder.decode(answer.content):
                yield text
            moved, offset = following > offset, following
            if not moved:
                if not follow or _header(answer, "X-Log-Complete") == "true":
                    return
                if time.monotonic() - asked_at < 0.5:  # an older gateway answers at once
                    time.sleep(0.5)


class Pipelines(Noun):
    """Pipelines, with their runs."""

    def run(self, team: str, name: str, parameters: Mapping[str, str] | None = None, force: bool = False) -> Object:
        """Ask for a run; ``force`` runs every step anew."""
        body = {"parameters": dict(parameters or {}), "force": force}
        return self._client.read(Object, "POST", f"{self._path(team, name)}/runs", json_body=body)

    def runs(self, team: str, name: str) -> list[Object]:
        """The pipeline's runs, oldest first."""
        return [Object.model_validate(item) for item in self._client.pages(f"{self._path(team, name)}/runs", {})]

    def get_run(self, team: str, pipeline: str, run: str) -> Object:
        """One run with its steps."""
        return self._client.read(Object, "GET", f"{self._path(team, pipeline)}/runs/{_q(run)}")

    def stop_run(self, team: str, pipeline: str, run: str) -> Object:
        """Ask a run to stop."""
        return self._client.read(Object, "POST", f"{self._path(team, pipeline)}/runs/{_q(run)}/stop")

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
        return self._client.read(_Items[DatasetVersion], "GET", f"{self._path(team, name)}/versions").items

    def version(self, team: str, name: str, version: str = "latest") -> DatasetVersion:
        """One version."""
        return self._client.read(DatasetVersion, "GET", f"{self._path(team, name)}/versions/{_q(version)}")


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

    def pack(self, folder: Path | str) -> tuple[str, bytes]:
        """``(content address, zip)`` of a folder; the token in use and the home are never in it."""
        return packaging.pack(folder, without=(self._client.token_path, find_home()))

    def upload(self, team: str, folder: Path | str) -> str:
        """Package a folder and keep it unless it is there; returns its content address, ``sha256:<hex>``."""
        address, data = self.pack(folder)
        self.keep(team, address, data)
        return address

    def keep(self, team: str, address: str, data: bytes) -> None:
        """Upload what ``pack`` made, unless it is there."""
        if not self.has(team, address):
            headers = {"Content-Type": "application/zip"}
            self._client.request("PUT", self._path(team, address), content=data, headers=headers)

    def _path(self, team: str, address: str) -> str:
        return f"/v1/teams/{_q(team)}/packages/{_q(address.removeprefix('sha256:'))}"


def read_documents(text: str, name: str) -> list[Document]:
    """The documents in a YAML text. Raises InvalidSpec naming ``name`` and the line, or the document and the field."""
    from rayplane.client.documents import load  # what asks the gateway needs no YAML

    found = load(text, name)
    if not found:
        raise errors.InvalidSpec(f"{name}: there is no document in it.", remedy="Write kind, metadata and spec.")
    documents = []
    for place, value in enumerate(found):
        require_json(value, f"{name}[{place}]")
        documents.append(parse(Document, value, f"{name}[{place}]"))
    return documents


def require_json(value: Any, path: str) -> None:
    """Raise InvalidSpec naming the first field, of those below ``path``, that holds what JSON can't say."""
    left, seen = [(path, value)], set[int]()
    while left:
        where, item = left.pop()
        parts: list[tuple[str, Any]] = []
        if isinstance(item, dict):
            parts = [(f"{where}.{key}", part) for key, part in item.items()]
            wrong = next((said for key in item if (said := _not_json(key))), None)
        elif isinstance(item, list | tuple):
            parts = [(f"{where}[{place}]", part) for place, part in enumerate(item)]
            wrong = None
        else:
            wrong = _not_json(item)
        if wrong:
            raise errors.InvalidSpec(f"{where}: {wrong}.", remedy="Write it in quotes, if it is meant as text.")
        if id(item) not in seen:  # YAML's aliases say one value at many places
            left += reversed(parts)
        seen.add(id(item))
    try:
        check_json(value)
    except ValueError as exc:
        raise errors.InvalidSpec(f"{path}: {exc}.", remedy="Write it out plainly.") from exc


def _not_json(item: Any) -> str | None:
    if item is None or isinstance(item, str | bool):
        return None
    if isinstance(item, int):
        return None if item.bit_length() < 1024 else "it is a number of more than 300 digits"
    if isinstance(item, float):
        return None if math.isfinite(item) else f"{item} is no number"
    return f"'{item}' is a {type(item).__name__}, not a text or number"


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
        require_json(document.spec, noun.singular)
        package = document.spec.get("package")
        # What is no text is refused by the gateway, with all else that is wrong with the spec.
        named = package if isinstance(package, str) and not packaging.is_address(package) else ""
        folder = Path(named) if named else None
        return cls(noun, of, document.metadata.name, document.metadata.labels, document.spec, folder)


def _path(noun: NounType, team: str, name: str | None = None) -> str:
    base = f"/v1/teams/{_q(team)}/{noun.plural}" if noun.team_scoped else f"/v1/{noun.plural}"
    return base if name is None else f"{base}/{_q(name)}"


def _q(part: str) -> str:
    """One name as a part of a path. Servers take '..' for the part before it, hence for another object."""
    if part in ("", ".", ".."):
        raise errors.InvalidInput(f"'{part}' is no name.", remedy="Write the name as 'list' shows it.")
    try:
        return quote(part, safe="")
    except UnicodeEncodeError as exc:
        raise errors.InvalidInput(f"{part!r} is no name.", remedy="Write the name as 'list' shows it.") from exc


class _Items(BaseModel, Generic[M]):
    items: list[M]


class _Page(BaseModel):
    items: list[dict[str, Any]]
    next_cursor: str | None


def _started_url(home: Home) -> str:
    """The URL that `rayplane up` wrote into the home."""
    try:
        found = read_json(home.state).get("gateway_url")
    except (OSError, ValueError, AttributeError) as exc:
        raise errors.Unavailable(
            f"'{home.state}' is damaged: no gateway's URL can be read from it.", remedy="Run 'rayplane up'."
        ) from exc
    if not found:
        raise errors.Unavailable(f"No platform was started in '{home.path}'.", remedy="Run 'rayplane up'.")
    return str(found)


def _checked_url(text: str) -> str:
    try:
        url = httpx.URL(text)
        right = url.scheme in ("http", "https") and url.host and (url.port or 0) < 65536
        right = right and not url.query and not url.fragment
    except (httpx.InvalidURL, ValueError):
        right = False
    if not right:
        raise errors.InvalidInput(
            f"'{text}' is no gateway's URL.", remedy="Write RAYPLANE_URL as http://host:port, or leave it out."
        )
    return text.rstrip("/")


def _change(kind: str, team: str, name: str, change: Any) -> Change:
    return Change(kind, team, name, change)


def _require_allowed(plan: Plan) -> None:
    """Raise the first reason that forbids a document as the error that it is."""
    for document in plan.documents:
        for refusal in document.forbidden:
            raise errors.from_problem(
                {
                    "type": f"urn:rayplane:problem:{refusal.code}",
                    "detail": f"{document.kind} '{document.name}': {refusal.message} Nothing was made.",
                    "remedy": refusal.remedy or "See all that forbids it with 'rayplane plan'.",
                }
            )


def _half_made(exc: errors.RayplaneError, made: list[str]) -> errors.RayplaneError:
    """The error of a write that failed after others, which it names."""
    remedy = f"{exc.remedy or 'Mend that.'} Then apply the same again: what was made stays."
    return type(exc)(f"{exc.detail} Before it: {', '.join(made)}.", remedy=remedy, **{**exc.fields, "made": made})


def _header(answer: httpx.Response, name: str) -> str:
    if name not in answer.headers:
        raise _strange(answer)
    return str(answer.headers[name])


def _strange(answer: httpx.Response) -> errors.Unavailable:
    """The error of an answer that no gateway gives."""
    where = f" and sends on to {answer.headers['Location']}" if "Location" in answer.headers else ""
    return errors.Unavailable(
        f"{answer.request.url} answered {answer.status_code}{where}: this does not speak rayplane's API.",
        remedy="Set RAYPLANE_URL to the gateway's URL, or leave it out after 'rayplane up'.",
    )


def _error_of(answer: httpx.Response) -> errors.RayplaneError:
    if answer.request.method == "HEAD":  # has no body
        where = f"{answer.request.url} answered {answer.status_code}."
        return errors.from_problem({"status": answer.status_code, "detail": where})
    try:
        problem = answer.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict) or not str(problem.get("type")).startswith("urn:rayplane:problem:"):
        return _strange(answer)
    return errors.from_problem({**problem, "status": answer.status_code})


__all__ = ["Change", "Client", "Noun", "Object", "read_documents", "why"]
