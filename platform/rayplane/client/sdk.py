"""The gateway's API in Python: one attribute per noun, plain objects as results, exceptions of ``rayplane.errors``."""

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
from rayplane.nouns.base import AnyNoun, Document, Object, check_json, parse
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
BUSY_PATIENCE = 30.0
"""Seconds for which a request is sent again while the gateway is busy."""
_RETRIES = 2
_LOG_WAIT = 10
"""Seconds that the gateway may hold a request for more of a log (long polling)."""
PATIENCE = 120.0
"""Seconds that a gateway which has answered before may be unreachable, while it restarts, before a wait gives up."""
_SETTLED: dict[str, frozenset[str]] = {
    "Cluster": frozenset({"Ready", "Suspended"}),
    "Job": TERMINAL,
    "PipelineRun": TERMINAL,
}
Progress = Callable[[Object], None]
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Change:
    """The change that ``apply`` made, or with a dry run would make, to one object."""

    kind: str
    team: str
    name: str
    change: Literal["created", "changed", "unchanged"]

    def __str__(self) -> str:
        where = f"{self.team}/{self.name}" if self.team else self.name
        return f"{self.kind.lower()} {where} {self.change}"


class Client:
    """A connection to one gateway.

    ``url`` defaults to RAYPLANE_URL and ``token_path`` to RAYPLANE_TOKEN_PATH; without these, both come from the home,
    to which `rayplane up` writes them. Nothing is read or sent before the first call. All errors are of
    ``rayplane.errors``: Unavailable if the gateway can't be reached.
    """

    def __init__(self, url: str | None = None, token_path: str | Path | None = None) -> None:
        self._explicit_url, self._explicit_token = url, token_path
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
        """The gateway's URL; raises Unavailable if none is known, InvalidInput if it is no URL."""
        return _checked_url(self._explicit_url or os.environ.get("RAYPLANE_URL") or _url_of_home(Home(find_home())))

    @property
    def token_path(self) -> Path:
        """Path of the token's file."""
        return Path(self._explicit_token or os.environ.get("RAYPLANE_TOKEN_PATH") or Home(find_home()).token)

    @property
    def token(self) -> str:
        """The token; raises InvalidInput if its file is missing, others may read it, or it holds no token."""
        text = read_secret(self.token_path)
        if not text or not text.isascii() or not text.isprintable() or " " in text:
            # The message leaves out the file's content, which may still be a secret.
            raise errors.InvalidInput(
                f"Secret file '{self.token_path}' holds no token: a token is one line of letters, digits and signs.",
                remedy="Write the token alone into it, or name another file by RAYPLANE_TOKEN_PATH.",
            )
        return text

    def info(self) -> dict[str, Any]:
        """The platform's versions and URLs, and the principal of this client's token."""
        info: dict[str, Any] = self.json("GET", "/v1/info")
        return info

    def noun(self, noun: AnyNoun) -> Noun:
        """The attribute of this client for a noun."""
        attribute: Noun = getattr(self, noun.plural)
        return attribute

    def apply_documents(
        self, documents: list[Document], *, team: str | None = None, dry_run: bool = False
    ) -> list[Change]:
        """Create or change objects as the documents say, in the order of the table of nouns.

        ``team`` is the team of documents that name none. A ``package`` that is a folder's path is uploaded and replaced
        by its content address. All documents are checked together, here and by the gateway's plan, before any is
        written: if one is wrong, the call raises and writes nothing. If a later write still fails, the error lists the
        objects that were written before it.
        """
        wanted = [_Wanted.of(noun, document, team) for noun, document in _checked_in_order(documents)]
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
                raise _partly_applied(exc, made) from exc
        return done

    def plan(self, documents: list[Document], *, team: str | None = None) -> Plan:
        """Plan the documents together: changes, reasons that forbid them, and the cost; nothing is written.

        ``team`` is the team of documents that name none. A ``package`` that is a folder's path counts as uploaded.
        """
        wanted = [_Wanted.of(by_kind(document.kind), document, team) for document in documents]
        return self._plan(wanted, self._packed(wanted))

    def lineage(self, team: str, node: str, direction: Literal["up", "down"] = "up") -> list[Edge]:
        """Lineage edges that lead to a node (``up``) or from it (``down``), over any number of steps."""
        params = {"node": node, "direction": direction}
        return self.read(_Items[Edge], "GET", f"/v1/teams/{_quoted(team)}/lineage", params=params).items

    def leases(self, team: str, *, open_only: bool = False) -> list[Lease]:
        """The team's entries in the ledger: compute that it held or holds."""
        path = f"/v1/teams/{_quoted(team)}/leases"
        return [Lease.model_validate(item) for item in self.pages(path, {"open_only": str(open_only).lower()})]

    def usage(self, team: str, *, since: datetime | None = None, until: datetime | None = None) -> list[ClusterUsage]:
        """Usage of each cluster of the team between two instants, in resource-seconds, including deleted clusters."""
        span = {key: at.isoformat() for key, at in (("since", since), ("until", until)) if at is not None}
        return self.read(_Items[ClusterUsage], "GET", f"/v1/teams/{_quoted(team)}/usage", params=span).items

    def audit(
        self, team: str | None = None, *, since: datetime | None = None, action: str | None = None
    ) -> Iterator[dict[str, Any]]:
        """The audit log, newest first, page by page: that of a team, or the whole log (for admins of the platform)."""
        filters = (("since", since and since.isoformat()), ("action", action))
        path = "/v1/audit" if team is None else f"/v1/teams/{_quoted(team)}/audit"
        return self.pages(path, {key: value for key, value in filters if value is not None})

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
        """Send a request and return the answer's JSON; raises Unavailable if the answer is not JSON."""
        answer = self.request(method, path, **options)
        try:
            return answer.json()
        except ValueError as exc:
            raise _not_a_gateway(answer) from exc

    def read(self, model: type[M], method: str, path: str, **options: Any) -> M:
        """Send a request and parse the answer as ``model``; raises Unavailable if it does not fit that."""
        answer = self.request(method, path, **options)
        try:
            return model.model_validate_json(answer.content)
        except ValidationError as exc:
            raise _not_a_gateway(answer) from exc

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
        """Send a request; writes carry an idempotency key, so that a retry after a lost answer does no harm.

        Where the gateway is busy (429 or 503 with ``Retry-After``) it is sent again, for half a minute in all.
        """
        url = self.url + path  # before the token: where no platform was started, the error should say so
        sent = {"Authorization": f"Bearer {self.token}", **(headers or {})}
        if method in ("POST", "PUT", "DELETE") and content is None:
            sent.setdefault("Idempotency-Key", uuid.uuid4().hex)
        gives_up = time.monotonic() + BUSY_PATIENCE
        while True:
            answer = self._exchange(method, path, url, json=json_body, content=content, params=params, headers=sent)
            if answer.is_success:
                return answer
            pause = _pause_of(answer)
            if pause is None or content is not None or time.monotonic() + pause > gives_up:
                raise _error_of(answer)
            time.sleep(pause)

    def _exchange(self, method: str, path: str, url: str, **options: Any) -> httpx.Response:
        """Send a request until any answer comes back, a few times."""
        for attempt in range(_RETRIES + 1):
            try:
                return self._connection().request(method, url, **options)
            except httpx.ConnectError as exc:
                raise self._unreachable(exc) from exc
            except httpx.TimeoutException as exc:
                raise errors.Timeout(
                    f"The gateway at {self.url} did not answer {method} {path} in time.", remedy="Try again."
                ) from exc
            except httpx.RequestError as exc:  # the transport failed, or the answer is encoded wrongly
                if attempt == _RETRIES:
                    raise self._unreachable(exc) from exc
                time.sleep(0.2 * (attempt + 1))
        raise AssertionError("the last attempt returns or raises")

    def _packed(self, wanted: list[_Wanted]) -> dict[Path, tuple[str, bytes]]:
        """(content address, zip) of each named folder, packed once, so that the planned package is the uploaded one."""
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
        # The gateway would refuse a package that is not uploaded yet: plan the rest of the spec without it.
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
            # Ignore HTTP proxies of the environment: only the gateway may get the token.
            self._http = httpx.Client(timeout=_TIMEOUT, trust_env=False)
        return self._http

    def _unreachable(self, exc: Exception) -> errors.Unavailable:
        return errors.Unavailable(f"The gateway at {self.url} can't be reached ({exc}).", remedy="Run 'rayplane up'.")


class Noun:
    """The common verbs of one noun."""

    def __init__(self, client: Client, noun: AnyNoun) -> None:
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
        """Create or change an object; returns it before it is reconciled. ``if_match``: the ETag it must have."""
        body = {"metadata": {"labels": dict(labels or {})}, "spec": dict(spec)}
        headers = {"If-Match": if_match} if if_match else None
        return self._client.read(Object, "PUT", self._path(team, name), json_body=body, headers=headers)

    def get(self, team: str, name: str) -> Object:
        """One object; raises NotFound."""
        return self._client.read(Object, "GET", self._path(team, name))

    def why(self, team: str, name: str) -> Explanation:
        """Explain why the object is not as wanted: ranked causes, or none if it is. Raises NotFound."""
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
        """Wait until the object is in one of ``phases`` (default: the settled ones of its kind) for its present spec.

        Raises Failed if it fails instead, Timeout after ``timeout`` seconds. ``progress`` is called at each poll.
        """
        return _wait(lambda: self.get(team, name), phases, timeout, progress)

    def wait_deleted(self, team: str, name: str, *, uid: str | None = None, timeout: float = 300.0) -> None:
        """Wait until the object is gone; a new object of the same name does not count as the old one. Raises Timeout.

        ``uid`` is that of the object that ``delete`` returned; by default, that of the object first found.
        """
        deadline = time.monotonic() + timeout
        get_object = patient(lambda: self.get(team, name), deadline)
        while time.monotonic() < deadline:
            try:
                current_uid = get_object().metadata.uid
            except errors.NotFound:
                return
            uid = uid or current_uid
            if current_uid != uid:
                return
            time.sleep(0.5)
        raise errors.Timeout(f"{self.type.kind} '{team}/{name}' is still there after {timeout:g}s.", remedy="Wait on.")

    def _path(self, team: str, name: str | None = None) -> str:
        return _path(self.type, team, name)


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
        return self._client.read(Object, "DELETE", self._path("", name or team), params=query)


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
        return self._client.read(Object, "POST", path, json_body=body)


class Jobs(Noun):
    """Jobs, with their own verbs."""

    def submit(self, team: str, spec: Mapping[str, Any], name: str | None = None) -> Object:
        """Submit a job: one run of an entrypoint. Without ``name``, the gateway makes one."""
        body = {"metadata": {"name": name} if name else {}, "spec": dict(spec)}
        return self._client.read(Object, "POST", self._path(team), json_body=body)

    def stop(self, team: str, name: str) -> Object:
        """Ask a job to stop."""
        return self._client.read(Object, "POST", f"{self._path(team, name)}/stop")

    def logs(self, team: str, name: str, follow: bool = True, *, patience: float = PATIENCE) -> Iterator[str]:
        """The driver's log in pieces as it grows; with ``follow`` until the job has ended and its log is complete.

        While following, waits for a gateway that has answered before and is unreachable for up to ``patience`` seconds.
        """
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        offset, last_answer = 0, float("-inf")
        while True:
            asked_at = time.monotonic()
            try:
                # The gateway holds the request until there is more; the pause below is for one that does not.
                asked = {"offset": offset, **({"wait": _LOG_WAIT} if follow else {})}
                answer = self._client.request("GET", f"{self._path(team, name)}/logs", params=asked)
            except errors.Unavailable:
                if not follow or time.monotonic() - last_answer > patience:
                    raise
                time.sleep(1.0)
                continue
            last_answer, following = time.monotonic(), int(_header(answer, "X-Next-Offset"))
            if text := decoder.decode(answer.content):
                yield text
            moved, offset = following > offset, following
            if not moved:
                if not follow or _header(answer, "X-Log-Complete") == "true":
                    return
                if time.monotonic() - asked_at < 0.5:  # an older gateway does not hold the request
                    time.sleep(0.5)


class Pipelines(Noun):
    """Pipelines, with their runs."""

    def run(self, team: str, name: str, parameters: Mapping[str, str] | None = None, force: bool = False) -> Object:
        """Ask for a run; ``force`` runs every step, even if its result is cached."""
        body = {"parameters": dict(parameters or {}), "force": force}
        return self._client.read(Object, "POST", f"{self._path(team, name)}/runs", json_body=body)

    def runs(self, team: str, name: str) -> list[Object]:
        """The pipeline's runs, oldest first."""
        return [Object.model_validate(item) for item in self._client.pages(f"{self._path(team, name)}/runs", {})]

    def get_run(self, team: str, pipeline: str, run: str) -> Object:
        """One run with its steps."""
        return self._client.read(Object, "GET", f"{self._path(team, pipeline)}/runs/{_quoted(run)}")

    def stop_run(self, team: str, pipeline: str, run: str) -> Object:
        """Ask a run to stop."""
        return self._client.read(Object, "POST", f"{self._path(team, pipeline)}/runs/{_quoted(run)}/stop")

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
        return _wait(lambda: self.get_run(team, pipeline, run), phases, timeout, progress)


class Datasets(Noun):
    """Datasets, with their versions."""

    def versions(self, team: str, name: str) -> list[DatasetVersion]:
        """Versions, newest first."""
        return self._client.read(_Items[DatasetVersion], "GET", f"{self._path(team, name)}/versions").items

    def version(self, team: str, name: str, version: str = "latest") -> DatasetVersion:
        """One version."""
        return self._client.read(DatasetVersion, "GET", f"{self._path(team, name)}/versions/{_quoted(version)}")


class Packages:
    """Code packages."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def has(self, team: str, address: str) -> bool:
        """True if the team has a package of this content address."""
        try:
            self._client.request("HEAD", self._path(team, address))
        except errors.NotFound:
            return False
        return True

    def pack(self, folder: Path | str) -> tuple[str, bytes]:
        """``(content address, zip)`` of a folder, always without the token in use and the home."""
        return packaging.pack(folder, without=(self._client.token_path, find_home()))

    def upload(self, team: str, folder: Path | str) -> str:
        """Pack a folder, upload it if the team lacks it, and return its content address, ``sha256:<hex>``."""
        address, data = self.pack(folder)
        self.keep(team, address, data)
        return address

    def keep(self, team: str, address: str, data: bytes) -> None:
        """Upload a package made by ``pack``, unless the team has it already."""
        if not self.has(team, address):
            headers = {"Content-Type": "application/zip"}
            self._client.request("PUT", self._path(team, address), content=data, headers=headers)

    def _path(self, team: str, address: str) -> str:
        return f"/v1/teams/{_quoted(team)}/packages/{_quoted(address.removeprefix('sha256:'))}"


def read_documents(text: str, name: str) -> list[Document]:
    """Parse the documents of a YAML text. Raises InvalidSpec naming ``name`` and the line, or document and field."""
    from rayplane.client.documents import load  # imported here, since most calls need no YAML

    values = load(text, name)
    if not values:
        raise errors.InvalidSpec(f"{name}: there is no document in it.", remedy="Write kind, metadata and spec.")
    documents = []
    for index, value in enumerate(values):
        require_json(value, f"{name}[{index}]")
        documents.append(parse(Document, value, f"{name}[{index}]"))
    return documents


def require_json(value: Any, path: str) -> None:
    """Raise InvalidSpec naming the first field below ``path`` whose value JSON can't represent."""
    queue, checked = [(path, value)], set[int]()
    while queue:
        where, item = queue.pop()
        parts: list[tuple[str, Any]] = []
        if isinstance(item, dict):
            parts = [(f"{where}.{key}", part) for key, part in item.items()]
            problem = next((text for key in item if (text := _not_json(key))), None)
        elif isinstance(item, list | tuple):
            parts = [(f"{where}[{index}]", part) for index, part in enumerate(item)]
            problem = None
        else:
            problem = _not_json(item)
        if problem:
            raise errors.InvalidSpec(f"{where}: {problem}.", remedy="Write it in quotes, if it is meant as text.")
        if id(item) not in checked:  # through YAML's aliases one value may occur many times
            queue += reversed(parts)
        checked.add(id(item))
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


def _pause_of(answer: httpx.Response) -> float | None:
    """Seconds after which the gateway wants to be asked again; None if it does not say so, or is not merely busy."""
    after = answer.headers.get("Retry-After", "")
    if answer.status_code not in (429, 503) or not after.isdecimal():
        return None
    return max(0.1, float(after))


def patient(get: Callable[[], Object], deadline: float) -> Callable[[], Object]:
    """Wrap ``get`` so that, after one success, it waits for an unreachable gateway: PATIENCE or until ``deadline``.

    The first call does not wait, so that a user learns at once if no gateway runs.
    """
    last_answer: float | None = None

    def get_patiently() -> Object:
        nonlocal last_answer
        while True:
            try:
                obj = get()
            except errors.Unavailable:
                now = time.monotonic()
                if last_answer is None or now - last_answer > PATIENCE or now > deadline:
                    raise
                time.sleep(1.0)
                continue
            last_answer = time.monotonic()
            return obj

    return get_patiently


def _wait(
    get: Callable[[], Object], phases: Collection[str] | None, timeout: float, progress: Progress | None
) -> Object:
    began = time.monotonic()
    deadline = began + timeout
    get_object = patient(get, deadline)
    while True:
        obj = get_object()
        if progress is not None:
            progress(obj)
        phase, wanted = _phase(obj), phases or _SETTLED.get(obj.kind, frozenset({"Ready"}))
        is_current = phase in TERMINAL or _observed_generation(obj) >= obj.metadata.generation
        if phase in wanted and is_current:
            return obj
        where = (
            f"{obj.kind} '{obj.metadata.team}/{obj.metadata.name}'"
            if obj.metadata.team
            else f"{obj.kind} '{obj.metadata.name}'"
        )
        if phase == "Failed" and is_current and _observed_generation(obj) >= obj.metadata.generation:
            raise errors.Failed(f"{where} failed: {why(obj) or 'no reason was given'}.")
        if time.monotonic() > deadline:
            raise errors.Timeout(
                f"{where} is {phase} after {timeout:g}s{': ' + why(obj) if why(obj) else ''}.",
                remedy="Wait on, or delete it.",
            )
        # Poll less often the longer the wait, so that the delay stays a small part of it.
        time.sleep(min(max((time.monotonic() - began) / 40, 0.2), 2.0))


def why(obj: Object) -> str:
    """The reason for an object's state, without a final full stop: its message, or its first false condition's."""
    text = str(obj.status.get("message") or "")
    if not text:
        false = (c for c in obj.status.get("conditions", []) if c.get("status") != "True" and c.get("message"))
        text = next((str(c["message"]) for c in false), "")
    return text.rstrip(".")


def _phase(obj: Object) -> str:
    return str(obj.status.get("phase", "Pending"))


def _observed_generation(obj: Object) -> int:
    return int(obj.status.get("observed_generation", 0))


def _checked_in_order(documents: list[Document]) -> list[tuple[AnyNoun, Document]]:
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
    order = {noun.kind: index for index, noun in enumerate(NOUNS)}
    return sorted(parsed, key=lambda pair: order[pair[0].kind])


@dataclass(frozen=True)
class _Wanted:
    noun: AnyNoun
    team: str
    name: str
    labels: dict[str, str]
    spec: dict[str, Any]
    folder: Path | None
    """Folder to upload as the spec's package, if the document names one."""

    @classmethod
    def of(cls, noun: AnyNoun, document: Document, team: str | None) -> _Wanted:
        team_name = (document.metadata.team or team) if noun.team_scoped else ""
        if team_name is None:
            raise errors.InvalidSpec(
                f"{noun.kind} '{document.metadata.name}' names no team.", remedy="Set metadata.team, or say --team."
            )
        require_json(document.spec, noun.singular)
        package = document.spec.get("package")
        # The gateway refuses a package that is no string, along with the spec's other mistakes.
        named = package if isinstance(package, str) and not packaging.is_address(package) else ""
        folder = Path(named) if named else None
        return cls(noun, team_name, document.metadata.name, document.metadata.labels, document.spec, folder)


def _path(noun: AnyNoun, team: str, name: str | None = None) -> str:
    base = f"/v1/teams/{_quoted(team)}/{noun.plural}" if noun.team_scoped else f"/v1/{noun.plural}"
    return base if name is None else f"{base}/{_quoted(name)}"


def _quoted(part: str) -> str:
    """Quote a name as a part of a path; refuse '..', by which servers would resolve the path to another object."""
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


def _url_of_home(home: Home) -> str:
    """The gateway's URL that `rayplane up` wrote into the home."""
    try:
        url = read_json(home.state).get("gateway_url")
    except (OSError, ValueError, AttributeError) as exc:
        raise errors.Unavailable(
            f"'{home.state}' is damaged: no gateway's URL can be read from it.", remedy="Run 'rayplane up'."
        ) from exc
    if not url:
        raise errors.Unavailable(f"No platform was started in '{home.path}'.", remedy="Run 'rayplane up'.")
    return str(url)


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
    """Raise the first reason that forbids a document, as the error of its code."""
    for document in plan.documents:
        for refusal in document.forbidden:
            raise errors.from_problem(
                {
                    "type": f"urn:rayplane:problem:{refusal.code}",
                    "detail": f"{document.kind} '{document.name}': {refusal.message} Nothing was made.",
                    "remedy": refusal.remedy or "See all that forbids it with 'rayplane plan'.",
                }
            )


def _partly_applied(exc: errors.RayplaneError, made: list[str]) -> errors.RayplaneError:
    """The error for a write that failed after others had succeeded; it lists those."""
    remedy = f"{exc.remedy or 'Mend that.'} Then apply the same again: what was made stays."
    return type(exc)(f"{exc.detail} Before it: {', '.join(made)}.", remedy=remedy, **{**exc.fields, "made": made})


def _header(answer: httpx.Response, name: str) -> str:
    if name not in answer.headers:
        raise _not_a_gateway(answer)
    return str(answer.headers[name])


def _not_a_gateway(answer: httpx.Response) -> errors.Unavailable:
    """The error for an answer that can't be from a gateway."""
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
        return _not_a_gateway(answer)
    return errors.from_problem({**problem, "status": answer.status_code})


__all__ = ["Change", "Client", "Noun", "Object", "read_documents", "why"]
