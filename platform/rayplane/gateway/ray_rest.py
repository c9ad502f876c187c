"""Ray's REST API of one cluster: jobs, Serve, activity. Synchronous; knows nothing of objects or the store."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
from websockets.exceptions import ConnectionClosedOK, InvalidStatus, WebSocketException
from websockets.sync.client import connect

from rayplane.errors import Failed, InvalidInput, NotFound, RayplaneError, Unauthenticated, Unavailable
from rayplane.gateway import ray_reach

SLOW = 60.0
"""Seconds for calls in which Ray starts something: a first submission waits for the node's agent, Serve for its
controller."""

MOST_STATUS = 2**20
"""The most bytes of an answer that says how a cluster is."""
MOST = 16 * 2**20
"""The most bytes of any other answer, but for a log's."""


class RayRest:
    """One cluster's dashboard. Thread-safe. Every call raises Unavailable while the cluster does not answer.

    A call takes no longer than its timeout as a whole (a log's takes what it needs), and no redirect is followed. With
    a ``reach`` others run the cluster: only addresses within it are asked, and no error repeats what they answer.
    """

    def __init__(
        self,
        base_url: str,
        token: str | None = None,
        *,
        timeout: float = 10.0,
        reach: ray_reach.Reach | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._timeout = timeout
        self._reach = reach
        self._clock = ray_reach.Clock()
        # Not the environment's proxies: a cluster's address is the platform's own, and loopback is never proxied.
        # Nothing compressed: a small answer would unpack to one of any size.
        self._http = httpx.Client(
            headers={**self._headers, "Accept-Encoding": "identity"},
            timeout=timeout,
            trust_env=False,
            transport=ray_reach.Transport(_tls(), self._clock, reach),
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def version(self) -> dict[str, Any]:
        """``{"ray_version": ..., "session_name": ...}``; raises Unauthenticated where the token is refused."""
        return self._call("GET", "/api/version", most=MOST_STATUS).object()

    def submit(
        self,
        entrypoint: str,
        submission_id: str,
        *,
        runtime_env: Mapping[str, Any] | None = None,
        metadata: Mapping[str, str] | None = None,
        num_cpus: float | None = None,
        num_gpus: float | None = None,
        memory: int | None = None,
    ) -> None:
        """Start a job under this id; one that is known already is success. ``memory`` is in bytes."""
        body: dict[str, Any] = {
            "entrypoint": entrypoint,
            "submission_id": submission_id,
            "runtime_env": dict(runtime_env or {}),
            "metadata": dict(metadata or {}),
        }
        resources = {"entrypoint_num_cpus": num_cpus, "entrypoint_num_gpus": num_gpus, "entrypoint_memory": memory}
        body.update({key: value for key, value in resources.items() if value})
        answer = self._send("POST", "/api/jobs/", json=body, timeout=SLOW)
        # Ray answers 500 both to an id that it knows and to real trouble, so the id is looked up.
        if answer.is_success or (answer.status >= 500 and self.job(submission_id) is not None):
            return
        raise answer.error()

    def job(self, submission_id: str) -> dict[str, Any] | None:
        """Ray's record of a job: ``status``, ``message``, ``error_type``, ``driver_exit_code``...; None if unknown."""
        try:
            return self._call("GET", f"/api/jobs/{quote(submission_id, safe='')}").object()
        except NotFound:
            return None

    def stop(self, submission_id: str) -> None:
        """Ask Ray to stop a job; one that has ended, or is unknown, is success."""
        try:
            self._call("POST", f"/api/jobs/{quote(submission_id, safe='')}/stop")
        except NotFound:
            return

    def logs(self, submission_id: str, *, most: int) -> str | None:
        """All of the job's log as it is now; None if Ray's answer has more than ``most`` bytes.

        Raises NotFound for an unknown job.
        """
        url = f"{self.base_url}/api/jobs/{quote(submission_id, safe='')}/logs"
        body = bytearray()
        with self._reaching(), self._http.stream("GET", url, timeout=SLOW) as response:
            if not response.is_success:
                raise self._read(response, MOST_STATUS).error()
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > most:
                    return None
        return str(json.loads(body)["logs"])

    def logs_tail(self, submission_id: str, *, idle: float = 0.5) -> Iterator[str]:
        """The job's log from its first byte, as it grows, until the job has ended and all of it was sent.

        Yields "" whenever nothing came for ``idle`` seconds, so that the reader may flush or leave. Raises NotFound for
        an unknown job, Unavailable if the connection breaks before the end.
        """
        parts = urlsplit(self.base_url)
        scheme = "wss" if parts.scheme == "https" else "ws"
        url = f"{scheme}://{parts.netloc}{parts.path}/api/jobs/{quote(submission_id, safe='')}/logs/tail"
        try:
            port = parts.port or (443 if scheme == "wss" else 80)
            with connect(
                url,
                # With a socket of ours no redirect is followed, and what was checked is connected to.
                sock=ray_reach.connect(parts.hostname or "", port, self._reach, SLOW),
                additional_headers=self._headers,
                max_size=None,
                proxy=None,
                # Ray's dashboard passes the offer of compression on to its own backend, can't read what that then
                # compresses, and ends the connection as if the log were empty (2.60, subprocesses/handle.py).
                compression=None,
                open_timeout=SLOW,
                close_timeout=1,
                # A busy dashboard may answer a ping late; a dead one closes the socket, which is noticed without pings.
                ping_interval=None,
            ) as socket:
                while True:
                    try:
                        message = socket.recv(timeout=idle)
                    except TimeoutError:
                        yield ""
                        continue
                    except ConnectionClosedOK:
                        return
                    yield message if isinstance(message, str) else message.decode(errors="replace")
        except InvalidStatus as exc:
            if exc.response.status_code == 404:
                raise NotFound(f"Ray at {self.base_url} knows no job '{submission_id}'.") from exc
            raise Unavailable(f"Ray at {self.base_url} answered {exc.response.status_code} to a log's reader.") from exc
        except (OSError, WebSocketException, ValueError) as exc:  # ValueError: it would redirect
            reason = type(exc).__name__ if self._reach is not None else str(exc) or type(exc).__name__
            raise Unavailable(f"The log of '{submission_id}' broke off: {reason}.") from exc

    def activities(self) -> dict[str, Any]:
        """What Ray says is active: ``{"driver": {"is_active", "last_activity_at"...}, ...}``."""
        return self._call("GET", "/api/component_activities", most=MOST_STATUS).object()

    def demands(self) -> list[str]:
        """What work waits for, as Ray's autoscaler reports it, a line each: ``{'CPU': 1.0}: 5+ pending tasks/actors``.

        Empty where nothing waits, and where no autoscaler has reported yet.
        """
        answer = self._call("GET", "/api/cluster_status", params={"format": "1"}).object()
        report = str((answer.get("data") or {}).get("clusterStatus") or "")
        # The report is text alone (2.60); its last part is headed "Pending Demands:", or "Demands:" by autoscaler v1.
        lines = report.partition("Demands:")[2].splitlines()
        return [line.strip() for line in lines if line.strip() and "(no resource demands)" not in line]

    def put_serve(self, config: Mapping[str, Any]) -> None:
        """Replace Serve's whole configuration: applications that it does not list are removed.

        Raises InvalidInput with Serve's reason where the configuration is refused.
        """
        self._call("PUT", "/api/serve/applications/", json=dict(config), timeout=SLOW)

    def serve_status(self) -> dict[str, Any]:
        """Serve's state: ``applications`` by name, each with ``status``, ``message`` and ``deployments``."""
        return self._call("GET", "/api/serve/applications/", timeout=SLOW).object()

    def _call(self, method: str, path: str, *, most: int = MOST, **kwargs: Any) -> _Answer:
        answer = self._send(method, path, most=most, **kwargs)
        if not answer.is_success:
            raise answer.error()
        return answer

    def _send(
        self, method: str, path: str, *, most: int = MOST, timeout: float | None = None, **kwargs: Any
    ) -> _Answer:
        seconds = timeout or self._timeout
        with (
            self._clock.lasting(seconds),
            self._reaching(),
            self._http.stream(method, self.base_url + path, timeout=seconds, **kwargs) as response,
        ):
            return self._read(response, most)

    def _read(self, response: httpx.Response, most: int) -> _Answer:
        """The answer as a whole; raises Unavailable for one that is larger, or compressed though that was not asked."""
        answer = _Answer(response.request, response.status_code, repeated=self._reach is None)
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise Unavailable(f"{answer.what}, compressed, which was not asked for: is that a Ray dashboard?")
        for chunk in response.iter_raw():
            answer.body += chunk
            if len(answer.body) > most:
                raise Unavailable(f"{answer.what} with more than {most} bytes: is that a Ray dashboard?")
        return answer

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except httpx.TransportError as exc:
            # What breaks HTTP's rules is repeated in the error's text.
            repeats = self._reach is None or not isinstance(exc, httpx.ProtocolError)
            reason = (str(exc) if repeats else "it does not speak HTTP as a server does") or type(exc).__name__
            raise Unavailable(f"Ray does not answer at {self.base_url}: {reason}.") from exc


@cache
def _tls() -> ssl.SSLContext:
    """One for all clients: each of its own would take 0.6 MiB, and longer to make than a call takes."""
    return httpx.create_ssl_context(trust_env=False)


@dataclass
class _Answer:
    """The outcome of one request."""

    request: httpx.Request
    status: int
    repeated: bool
    """True if errors may tell what is in it."""
    body: bytearray = field(default_factory=bytearray)

    @property
    def what(self) -> str:
        """The words by which errors call it."""
        return f"Ray answered {self.status} to {self.request.method} {self.request.url.copy_with(query=None)}"

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    def object(self) -> dict[str, Any]:
        """The JSON object in it; raises Unavailable if it is none."""
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise Unavailable(f"{self.what}, but not with a JSON object: is that a Ray dashboard?")
        return value

    def error(self) -> RayplaneError:
        """The error that an answer which is no success tells of."""
        reason = self._reason() if self.repeated else "a success was expected; its answer is not repeated here"
        if self.status in (401, 403):
            return Unauthenticated(f"{self.what}: the cluster's token is refused.", remedy="Create the cluster anew.")
        if self.status == 404:
            return NotFound(f"{self.what}: {reason}")
        if self.status in (400, 413, 422):
            return InvalidInput(f"{self.what}: {reason}")
        return Unavailable(f"{self.what}: {reason}") if self.status >= 500 else Failed(f"{self.what}: {reason}")

    def _reason(self) -> str:
        """The end of what Ray says: it answers with whole tracebacks, whose last line tells."""
        try:
            body = json.loads(self.body)
        except (ValueError, RecursionError):
            body = None
        text = str(body.get("msg") or body) if isinstance(body, dict) else self.body.decode(errors="replace")
        lines = [line.strip() for line in text.strip().splitlines() if line.strip().strip("^.")]
        return lines[-1][:500] if lines else "no reason given"
