"""Client of the API server with the gateway's identity: a thin shell over lightkube's credentials and transport.

It does not use lightkube's own client, which has no preconditions on deletion, no bookmarks, and waits for ever on a
watch that died. Every foreign error is translated here, once. This module makes no decisions.
"""

from __future__ import annotations

import json
import random
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

import httpx2
from lightkube.config.client_adapter import Client, ConnectionParams, verify_cluster
from lightkube.config.kubeconfig import KubeConfig
from lightkube.core.exceptions import ConfigError

from rayplane.errors import (
    Conflict,
    Failed,
    Forbidden,
    InvalidInput,
    InvalidSpec,
    NotFound,
    RayplaneError,
    Refused,
    Timeout,
    Unavailable,
)
from rayplane.gateway import metrics
from rayplane.gateway.backends.kubernetes.kinds import MANAGER, Kind, Object, as_yaml

CHUNK = 250
"""The most objects in one page of a list: it bounds the memory that a list takes."""

_WATCH_SECONDS = 240
_SILENCE = 150.0
"""Seconds of silence after which a watch is dead: the API server sends a bookmark about every minute."""

_LEAVING = 5.0
"""Seconds that ``close`` waits for threads to notice that their watch has ended."""

_ROLE = "deploy/kubernetes/gateway-role.yaml"

# Notice a peer that vanished without closing (a node that lost power) after about 30 s, not after hours.
_KEEP_ALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, option), value)
        for option, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
        if hasattr(socket, option)
    ),
]


class Expired(Exception):
    """A watch can't resume from its resource version: list again. Never leaves this package."""


class Change(NamedTuple):
    """One event of a watch."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
    object: Object


class Listing(NamedTuple):
    """A list or one page of it, and the resource version from which a watch continues."""

    items: list[Object]
    resource_version: str


class KubeApi:
    """Thread-safe; connects on the first call. Every call raises Unavailable while the API server does not answer,
    and Forbidden, naming verb and resource, where the gateway's role lacks something."""

    def __init__(self, kubeconfig: Path | None = None, *, timeout: float = 10.0) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        """Number of calls by (verb, kind); a watch counts when it is opened."""
        self._kubeconfig = kubeconfig
        self._timeout = timeout
        self._lock = threading.Lock()
        self._client: httpx2.Client | None = None
        self._watches: set[socket.socket] = set()
        self._no_watch = threading.Condition(self._lock)
        self._interrupted = False

    def interrupt(self) -> None:
        """End every watch, and each one that is opened from now on, with Unavailable."""
        with self._lock:
            self._interrupted = True
            watches = list(self._watches)
        for watched in watches:
            _end(watched)

    def close(self) -> None:
        """Close the connections; calls under way on them end with Unavailable.

        Wait first for the threads that read from a watch: the process reuses a closed socket's file descriptor for the
        next one that it opens, and a thread that still reads by that number would take bytes of the new connection.
        """
        self.interrupt()
        with self._no_watch:
            self._no_watch.wait_for(lambda: not self._watches, timeout=_LEAVING)
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def get(self, kind: Kind, name: str, namespace: str | None = None) -> Object:
        """One object; raises NotFound."""
        return self._ask("get", "GET", kind, namespace, name)

    def list(self, kind: Kind, namespace: str | None = None, *, labels: str = "", fields: str = "") -> Listing:
        """Every matching object, in one namespace or in all, as of one instant. Raises Unavailable if too slow."""
        items: list[Object] = []
        version = ""
        try:
            for page in self.pages(kind, namespace, labels=labels, fields=fields):
                items, version = items + page.items, page.resource_version
        except Expired as exc:
            raise Unavailable(f"The list of {kind} took too long: {exc}", remedy=_WAIT) from exc
        return Listing(items, version)

    def pages(
        self, kind: Kind, namespace: str | None = None, *, labels: str = "", fields: str = ""
    ) -> Iterator[Listing]:
        """The same as ``list``, with one page in memory at a time. Raises Expired if reading is too slow."""
        params = {"labelSelector": labels, "fieldSelector": fields, "limit": str(CHUNK), "continue": ""}
        while True:
            answer = self._ask("list", "GET", kind, namespace, params=params, expiring=True)
            params["continue"] = answer["metadata"].get("continue", "")
            yield Listing(answer.get("items") or [], answer["metadata"]["resourceVersion"])
            if not params["continue"]:
                return

    def watch(self, kind: Kind, resource_version: str, *, labels: str = "") -> Iterator[Change]:
        """Changes in all namespaces from a resource version on. The API server ends the watch after some minutes.

        Raises Expired if the version is too old, Timeout after too long a silence.
        """
        params = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "labelSelector": labels,
            # Spread out, so that the watches of all kinds do not end at once.
            "timeoutSeconds": str(_WATCH_SECONDS + random.randrange(60)),  # noqa: S311
        }
        self._count("watch", kind)
        timeout = httpx2.Timeout(self._timeout, read=_SILENCE)
        with (
            _translated(f"watch {kind}"),
            self._connection().stream("GET", kind.path(), params=params, timeout=timeout) as answer,
            self._interruptible(answer),
        ):
            if answer.status_code != 200:
                answer.read()
                _refuse(answer, "watch", kind, None, None, expiring=True)
            # Tell the caller that the watch is open: if nothing changes, the server's first event comes a minute later.
            yield Change("BOOKMARK", {"metadata": {"resourceVersion": resource_version}})
            for line in _lines(answer.iter_bytes()):
                yield _change(line, kind)

    def apply(self, kind: Kind, manifest: Object, *, force: bool = True) -> Object:
        """Apply a manifest by server-side apply: fields that an earlier apply set and this one leaves out are removed.

        ``force`` takes over fields that other managers set; without it they raise Conflict. With a ``resourceVersion``
        in the manifest, an object that changed since raises Conflict. Raises NotFound if the namespace is missing.
        """
        meta = manifest["metadata"]
        return self._ask(
            "patch",
            "PATCH",
            kind,
            meta.get("namespace"),
            meta["name"],
            params={"fieldManager": MANAGER, "force": "true" if force else "false"},
            headers={"Content-Type": "application/apply-patch+yaml"},
            body=manifest,
        )

    def merge(self, kind: Kind, name: str, namespace: str | None, change: Object) -> Object:
        """Merge a change into an existing object; raises NotFound."""
        return self._ask(
            "patch",
            "PATCH",
            kind,
            namespace,
            name,
            params={"fieldManager": MANAGER},
            headers={"Content-Type": "application/merge-patch+json"},
            body=change,
        )

    def delete(
        self,
        kind: Kind,
        name: str,
        namespace: str | None = None,
        *,
        uid: str,
        propagation: Literal["Background", "Foreground"] = "Background",
    ) -> None:
        """Ask for the deletion of the object with this uid; one already gone is success."""
        body = {"propagationPolicy": propagation, "preconditions": {"uid": uid}}
        try:
            self._ask("delete", "DELETE", kind, namespace, name, body=body)
        except (NotFound, Conflict):
            return  # it is gone, or another object has its name now

    def _ask(
        self,
        verb: str,
        method: str,
        kind: Kind,
        namespace: str | None,
        name: str | None = None,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Object | None = None,
        expiring: bool = False,
    ) -> Object:
        self._count(verb, kind)
        content = None if body is None else as_yaml(body).encode()
        typed = {"Content-Type": "application/json"} if body is not None else {}
        query = {key: value for key, value in (params or {}).items() if value}
        with _translated(f"{verb} {kind}"):
            answer = self._connection().request(
                method, kind.path(namespace, name), params=query, headers={**typed, **(headers or {})}, content=content
            )
        if not answer.is_success:
            _refuse(answer, verb, kind, namespace, name, expiring=expiring)
        return _parsed(answer.content, f"{verb} {kind}")

    @contextmanager
    def _interruptible(self, answer: httpx2.Response) -> Iterator[None]:
        """Let ``interrupt`` end the wait for the next event on an open watch."""
        connection: socket.socket = answer.extensions["network_stream"].get_extra_info("socket")
        with self._lock:
            self._watches.add(connection)
            late = self._interrupted
        if late:
            _end(connection)
        try:
            yield
        finally:
            with self._no_watch:
                self._watches.discard(connection)
                self._no_watch.notify_all()

    def _count(self, verb: str, kind: Kind) -> None:
        with self._lock:
            self.calls[verb, str(kind)] += 1
        metrics.KUBERNETES_CALLS.labels(verb, str(kind)).inc()

    def _connection(self) -> httpx2.Client:
        with self._lock:
            if self._client is None:
                self._client = _connect(self._kubeconfig, self._timeout)
            return self._client


def _end(watched: socket.socket) -> None:
    with suppress(OSError):  # the server closed it first
        watched.shutdown(socket.SHUT_RDWR)  # close() would not wake the thread that waits on it


def _connect(kubeconfig: Path | None, timeout: float) -> httpx2.Client:
    source = "its service account" if kubeconfig is None else f"'{kubeconfig}'"
    try:
        whole = KubeConfig.from_service_account() if kubeconfig is None else KubeConfig.from_file(kubeconfig)
        config = whole.get()
        assert config is not None  # get() without a default raises instead
        trust = verify_cluster(config.cluster, config.user, config.abs_file)  # type: ignore[arg-type]  # None is taken
    except Exception as exc:  # lightkube's reader raises any error for a malformed file
        raise InvalidInput(
            f"The gateway can't tell from {source} how to reach Kubernetes: {exc}.",
            remedy="Set RAYPLANE_KUBERNETES_KUBECONFIG to a kubeconfig, or run the gateway in a pod.",
        ) from exc
    # CAs made by Kubernetes may lack the extensions that Python 3.13 demands.
    trust.verify_flags &= ~ssl.VERIFY_X509_STRICT
    transport = httpx2.HTTPTransport(
        verify=trust,
        trust_env=False,
        socket_options=_KEEP_ALIVE,
        limits=httpx2.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=60.0),
    )
    # Ignore the environment's proxies: the API server is on the platform's own network.
    params = ConnectionParams(timeout=httpx2.Timeout(timeout), trust_env=False, transport=transport)
    return Client(config, params)


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Raise the platform's errors for foreign errors of a call."""
    try:
        yield
    except httpx2.HTTPError as exc:
        raise _unreachable(exc, what) from exc
    except (ConfigError, OSError, ValueError) as exc:
        raise Unavailable(
            f"The gateway has no credentials for Kubernetes' API server ({what}): {exc}.",
            remedy="Check the credential plug-in that its kubeconfig names.",
        ) from exc


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines split at newlines only: JSON may contain other line separators, such as U+0085."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from (line for line in whole if line)
    if rest:
        yield rest


def _change(line: bytes, kind: Kind) -> Change:
    event = _parsed(line, f"watch {kind}")
    if event["type"] != "ERROR":
        return Change(event["type"], event["object"])
    status = event["object"]
    if status.get("code") == 410:
        raise Expired(str(status.get("message")))
    raise Unavailable(f"The watch of {kind} broke off: {status.get('message')}", remedy=_WAIT)


_WAIT = "The gateway tries again; check the API server if this lasts."


def _unreachable(exc: httpx2.HTTPError, what: str) -> RayplaneError:
    kind = Timeout if isinstance(exc, httpx2.TimeoutException) else Unavailable
    why = str(exc) or type(exc).__name__
    return kind(f"Kubernetes' API server did not answer ({what}): {why}.", remedy=_WAIT)


def _parsed(content: bytes, call: str) -> Object:
    try:
        parsed: Object = json.loads(content)
    except ValueError as exc:
        raise Unavailable(f"Kubernetes' API server answered no JSON ({call}).", remedy=_WAIT) from exc
    return parsed


def _refuse(
    answer: httpx2.Response, verb: str, kind: Kind, namespace: str | None, name: str | None, *, expiring: bool
) -> NoReturn:
    """Raise the platform's error for an unsuccessful answer."""
    status = _status(answer)
    message, reason = str(status.get("message") or answer.text[:500] or answer.reason_phrase), status.get("reason")
    causes = {str(cause.get("reason")) for cause in (status.get("details") or {}).get("causes") or []}
    where = f" in namespace '{namespace}'" if namespace else ""
    what = f"{kind.name} '{name}'{where}" if name else f"{kind}{where}"
    code = answer.status_code
    if code == 410 and expiring:
        raise Expired(message)
    if code == 401:
        raise Forbidden(
            f"Kubernetes does not know the gateway's credentials ({verb} {what}).",
            remedy="Give it a valid token or kubeconfig.",
        )
    if code == 403 and "NamespaceTerminating" in causes:
        raise Unavailable(f"{what} can't be made: its namespace is being deleted.", remedy="Wait until it is gone.")
    if code == 403 and ("exceeded quota" in message or "violates PodSecurity" in message):
        raise Refused(f"Kubernetes refuses {what}: {message}.", remedy="Correct it, or ask an admin for more.")
    if code == 403:
        raise Forbidden(
            f"The gateway may not {verb} {kind}{where}: {message}",
            remedy=f"Apply {_ROLE}.",
            verb=verb,
            resource=str(kind),
        )
    if code == 404:
        raise NotFound(f"There is no {what}: {message}.", remedy="Make it, or what it belongs to, first.")
    if code in (409, 412):
        raise Conflict(f"{what} is in the way or has changed: {message}", remedy="Look again, and repeat.")
    if code in (400, 422) or (code == 500 and "failed to create" in message):
        raise InvalidSpec(f"Kubernetes refuses {what}: {message}", remedy="Correct the fields that it names.")
    if code == 429 or code >= 500 or code == 410:
        raise Unavailable(
            f"Kubernetes' API server can't {verb} {what} now ({code} {reason or ''}): {message}", remedy=_WAIT
        )
    raise Failed(f"Kubernetes answered {code} to {verb} {what}: {message}")


def _status(answer: httpx2.Response) -> dict[str, Any]:
    try:
        status = answer.json()
    except ValueError:
        return {}
    return status if isinstance(status, dict) else {}
