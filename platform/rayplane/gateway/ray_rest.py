"""Client of one Ray cluster's REST API: jobs, Serve, activity. Synchronous; independent of objects and the store."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import httpx

from rayplane.errors import Failed, InvalidInput, NotFound, RayplaneError, Unauthenticated, Unavailable
from rayplane.gateway import ray_reach

SLOW = 60.0
"""Timeout in seconds of calls in which Ray starts a process: the agent of a node, or Serve's controller."""

LONG = 3600.0
"""Timeout in seconds of a whole log, which Ray's state API enforces."""
_NO_LOG = (b"A file is not found", b"has no driver node id", b"Could not find a log file")
"""Parts of Ray's responses (2.60, status 500) for a job whose process has not started, or never did."""
_AGENTS = 1000
"""Maximum jobs of which the address of their node's agent is cached."""
_AGENTS_AWAY, _CONNECT = 60.0, 3.0
"""Seconds without asking agents after one could not be reached; and the timeout of a connection attempt."""

MOST_STATUS = 2**20
"""Maximum bytes of a response about a cluster's state."""
MOST = 16 * 2**20
"""Maximum bytes of any other response, except a log's."""


class RayRest:
    """A client of one cluster's dashboard. Thread-safe. Each call raises Unavailable while the cluster does not answer.

    The timeout limits a call as a whole (except a log's), and redirects are not followed. A ``reach`` is set for a
    cluster that others run: the client connects only to addresses within it, and errors do not repeat its responses.
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
        # No proxies of the environment: a cluster's address is the platform's own, and loopback is never proxied.
        # No compression: a small response could unpack to any size.
        self._http = httpx.Client(
            headers={**self._headers, "Accept-Encoding": "identity"},
            timeout=timeout,
            trust_env=False,
            transport=ray_reach.Transport(_tls(), self._clock, reach),
        )
        self._agents: dict[str, str] = {}
        """URL of the agent on a job's node, by submission id."""
        self._agents_answer_from = float("-inf")
        """Instant of the monotonic clock before which agents are not asked, since one could not be reached."""

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def version(self) -> dict[str, Any]:
        """Ray's ``{"ray_version": ..., "session_name": ...}``; raises Unauthenticated if Ray refuses the token."""
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
        """Start a job under this id; success too if Ray has it already. ``memory`` is in bytes."""
        body: dict[str, Any] = {
            "entrypoint": entrypoint,
            "submission_id": submission_id,
            "runtime_env": dict(runtime_env or {}),
            "metadata": dict(metadata or {}),
        }
        resources = {"entrypoint_num_cpus": num_cpus, "entrypoint_num_gpus": num_gpus, "entrypoint_memory": memory}
        body.update({key: value for key, value in resources.items() if value})
        answer = self._send("POST", "/api/jobs/", json=body, timeout=SLOW)
        # Ray answers 500 both to an id that it has already and to real errors, so look the id up.
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

    def log_from(self, submission_id: str, offset: int) -> Iterator[bytes]:
        """Yield the job's present log from byte ``offset`` on, byte for byte, in pieces; nothing if there is no more.

        Raises NotFound for an unknown job. Ray's own routes for a job's log read it as text: they stop at the first
        byte that is not UTF-8, and change line endings. The agent of the job's node serves ranges of the file instead.
        If the agent can't be reached, Ray's state API sends the whole log, and the part before ``offset`` is dropped.
        """
        agent = self._agent(submission_id)
        if agent is None:
            yield from self._whole_log(submission_id, offset)
        elif agent:
            try:
                yield from self._range_of_log(f"{agent}/logs/job-driver-{quote(submission_id, safe='')}.log", offset)
            except Unavailable as exc:
                if not isinstance(exc.__cause__, httpx.ConnectError | httpx.ConnectTimeout):
                    raise
                self._agents.clear()
                self._agents_answer_from = time.monotonic() + _AGENTS_AWAY
                yield from self._whole_log(submission_id, offset)

    def _agent(self, submission_id: str) -> str | None:
        """URL of the agent on the job's node; "" while the job has none; None if the agent must not be asked.

        The agent gets the cluster's token, so it must be on the host that the token is for: the dashboard's. On a
        cluster that others run, only the dashboard's port is asked. Raises NotFound for an unknown job.
        """
        if self._reach is not None or time.monotonic() < self._agents_answer_from:
            return None
        agent = self._agents.get(submission_id)
        if agent is None:
            job = self.job(submission_id)
            if job is None:
                raise NotFound(f"Ray at {self.base_url} knows no job '{submission_id}'.")
            agent = str(job.get("driver_agent_http_address") or "").rstrip("/")
            if not agent:
                return ""
            if len(self._agents) >= _AGENTS:
                self._agents.clear()
            self._agents[submission_id] = agent
        return agent if urlsplit(agent).hostname == urlsplit(self.base_url).hostname else None

    def _range_of_log(self, url: str, offset: int) -> Iterator[bytes]:
        headers = {"Range": f"bytes={offset}-"}
        timeout = httpx.Timeout(10.0, connect=_CONNECT)
        with self._reaching(), self._http.stream("GET", url, headers=headers, timeout=timeout) as response:
            if response.status_code == httpx.codes.PARTIAL_CONTENT:
                yield from _plain(response)
            elif response.status_code not in (httpx.codes.NOT_FOUND, httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE):
                raise self._read(response, MOST_STATUS).error()

    def _whole_log(self, submission_id: str, offset: int) -> Iterator[bytes]:
        # Ray requires a node id, but uses the job's node instead. Without -1 it would send only the last 1,000 lines.
        asked = {"submission_id": submission_id, "node_id": "the-job-has-one", "lines": -1, "timeout": int(LONG)}
        url = f"{self.base_url}/api/v0/logs/file?{urlencode(asked)}"
        timeout = httpx.Timeout(SLOW, connect=_CONNECT)
        with self._reaching(), self._http.stream("GET", url, timeout=timeout) as response:
            if response.is_success:
                for piece in _plain(response):
                    yield piece[offset:]
                    offset = max(0, offset - len(piece))
                return
            refusal = self._read(response, MOST_STATUS)
            if self.job(submission_id) is None:
                raise NotFound(f"Ray at {self.base_url} knows no job '{submission_id}'.")
            if refusal.status == httpx.codes.NOT_FOUND:
                raise Unavailable(f"{refusal.what}: there is no state API, which has the log.")
            if not any(reason in refusal.body for reason in _NO_LOG):
                raise refusal.error()

    def activities(self) -> dict[str, Any]:
        """Ray's report of its activity: ``{"driver": {"is_active", "last_activity_at"...}, ...}``."""
        return self._call("GET", "/api/component_activities", most=MOST_STATUS).object()

    def demands(self) -> list[str]:
        """Unmet demands, a line each, from Ray's autoscaler report: ``{'CPU': 1.0}: 5+ pending tasks/actors``.

        Empty if no demand waits, or if no autoscaler has reported yet.
        """
        answer = self._call("GET", "/api/cluster_status", params={"format": "1"}).object()
        report = str((answer.get("data") or {}).get("clusterStatus") or "")
        # The report is plain text (2.60); its last section is "Pending Demands:", or "Demands:" by autoscaler v1.
        lines = report.partition("Demands:")[2].splitlines()
        return [line.strip() for line in lines if line.strip() and "(no resource demands)" not in line]

    def put_serve(self, config: Mapping[str, Any]) -> None:
        """Replace Serve's whole configuration: Serve removes applications that it does not list.

        Raises InvalidInput with Serve's reason if Serve refuses the configuration.
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
        """The whole response; raises Unavailable if it has more than ``most`` bytes, or is compressed."""
        answer = _Answer(response.request, response.status_code, repeated=self._reach is None)
        for chunk in _plain(response):
            answer.body += chunk
            if len(answer.body) > most:
                raise Unavailable(f"{answer.what} with more than {most} bytes: is that a Ray dashboard?")
        return answer

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except httpx.TransportError as exc:
            # The text of a ProtocolError repeats what the server sent.
            repeats = self._reach is None or not isinstance(exc, httpx.ProtocolError)
            reason = (str(exc) if repeats else "it does not speak HTTP as a server does") or type(exc).__name__
            raise Unavailable(f"Ray does not answer at {self.base_url}: {reason}.") from exc


@cache
def _tls() -> ssl.SSLContext:
    """The TLS context of all clients: one of each would take 0.6 MiB, and creating it takes longer than a call."""
    return httpx.create_ssl_context(trust_env=False)


def _plain(response: httpx.Response) -> Iterator[bytes]:
    """Yield the body as it arrives; raises Unavailable if it is compressed: a small one could unpack to any size."""
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        what = _Answer(response.request, response.status_code, repeated=False).what
        raise Unavailable(f"{what}, compressed, which was not asked for: is that a Ray dashboard?")
    yield from response.iter_raw()


@dataclass
class _Answer:
    """The response to one request."""

    request: httpx.Request
    status: int
    repeated: bool
    """True if errors may repeat its text."""
    body: bytearray = field(default_factory=bytearray)

    @property
    def what(self) -> str:
        """A description of it for errors."""
        return f"Ray answered {self.status} to {self.request.method} {self.request.url.copy_with(query=None)}"

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    def object(self) -> dict[str, Any]:
        """Parse its body as a JSON object; raises Unavailable if it is none."""
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise Unavailable(f"{self.what}, but not with a JSON object: is that a Ray dashboard?")
        return value

    def error(self) -> RayplaneError:
        """The error for a response that is no success."""
        reason = self._reason() if self.repeated else "a success was expected; its answer is not repeated here"
        if self.status in (401, 403):
            return Unauthenticated(f"{self.what}: the cluster's token is refused.", remedy="Create the cluster anew.")
        if self.status == 404:
            return NotFound(f"{self.what}: {reason}")
        if self.status in (400, 413, 422):
            return InvalidInput(f"{self.what}: {reason}")
        return Unavailable(f"{self.what}: {reason}") if self.status >= 500 else Failed(f"{self.what}: {reason}")

    def _reason(self) -> str:
        """The last line of Ray's message: Ray responds with whole tracebacks, which end with the reason."""
        try:
            body = json.loads(self.body)
        except (ValueError, RecursionError):
            body = None
        text = str(body.get("msg") or body) if isinstance(body, dict) else self.body.decode(errors="replace")
        lines = [line.strip() for line in text.strip().splitlines() if line.strip().strip("^.")]
        return lines[-1][:500] if lines else "no reason given"
