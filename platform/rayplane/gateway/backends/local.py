"""Clusters on this host: one detached `ray start --head --block` each, with its own ports, token and temporary folder.

A head outlives the gateway: it has its own session, and its record on disk is enough to find it again. Slow work
(stopping left-over processes, choosing ports, removing folders) is done by one thread per cluster.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import sys
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from importlib import util
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from rayplane import local_users, processes, trees
from rayplane.errors import RayplaneError, Unauthenticated, Unavailable, Unsupported
from rayplane.gateway.backends import local_environment, local_head, local_teams
from rayplane.gateway.backends.base import (
    Capability,
    ClusterRef,
    Evidence,
    LaunchContext,
    Node,
    Observation,
    TeamRef,
    capabilities_of,
)
from rayplane.gateway.backends.local_head import Folders, HeadRecord
from rayplane.gateway.backends.local_teams import LocalTeams
from rayplane.gateway.ray_rest import RayRest
from rayplane.nouns.base import utcnow
from rayplane.nouns.cluster import ClusterSpec, Endpoint
from rayplane.nouns.environment import Environment
from rayplane.nouns.team import Size, TeamSpec
from rayplane.settings import GatewaySettings, read_secret, write_secret

log = logging.getLogger(__name__)

Phase = Literal["absent", "starting", "ready", "failed", "stopping", "suspended"]

_LEAST_DISK = 2 * 2**30
_GRACE = 5.0
_LAST_BYTES = 8000
"""The most bytes of the end of a head's log that are read for its last lines."""
_MOST_ENDED_HEADS = 16
"""Number of ended heads that are reported for a cluster: each look takes the last ones into the ledger."""
_SHM = "/dev/shm"  # noqa: S108  where Ray keeps its object store


class LocalClusters:
    """Ray heads as processes of this host, one each. With ``teams``, each runs as the Unix user of its team."""

    def __init__(self, settings: GatewaySettings, teams: LocalTeams | None) -> None:
        self._home = settings.home_paths
        self._teams = teams
        self._spawning = threading.Lock()
        """Held while a head is started and recorded, and while a user's left-over processes are ended."""
        self._warm = settings.warm_processes
        self._records = self._home.processes / "clusters"
        self._lock = threading.Lock()
        self._work: dict[str, _Work] = {}
        self._attempts: dict[str, int] = {}
        self._ended_heads: dict[str, dict[str, Node]] = {}
        """uid -> heads that this process observed to have ended."""
        self._rest: dict[str, RayRest] = {}

    def preflight(self, ref: ClusterRef, spec: ClusterSpec, size: Size) -> list[str]:
        """The reasons why this host can't run the cluster."""
        reasons = []
        if not sys.platform.startswith("linux"):
            reasons.append("Local clusters need Linux. Give the team another backend.")
        if util.find_spec("ray") is None:
            reasons.append(f"Ray is not installed for {sys.executable}. Run: pip install 'rayplane[local]'.")
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if size.memory > memory:
            reasons.append(
                f"Size '{spec.size}' asks for {_gib(size.memory)} of memory, this host has {_gib(memory)}. "
                "Choose a smaller size."
            )
        if size.gpu and not Path("/dev/nvidiactl").exists():
            reasons.append(f"Size '{spec.size}' asks for {size.gpu:g} GPUs, this host has none. Choose another size.")
        for folder in {local_head.temp_dir(self._home.id, ref.uid).parent, _existing(self._home.path)}:
            free = shutil.disk_usage(folder).free
            if free < _LEAST_DISK:
                need = _gib(_LEAST_DISK)
                reasons.append(f"'{folder}' has {_gib(free)} free, a cluster needs {need}. Free some space.")
        return reasons

    def observe(self, ref: ClusterRef, spec: ClusterSpec) -> Observation:
        """Observe the head's process, then ask its dashboard with its token."""
        with self._lock:
            work = self._work.get(ref.uid)
        if work is not None and work.running:
            return self._observation(ref, "starting" if work.kind == "start" else "stopping")
        if work is not None and work.error is not None:
            phase: Phase = "failed" if work.kind == "start" else "stopping"
            return self._observation(ref, phase, type(work.error).__name__, str(work.error))
        record = self._record(ref.uid)
        if record is None:
            return self._observation(ref, "absent")
        if not processes.alive(record):
            return self._observation(ref, "failed", "HeadDied", f"The Ray head of '{ref}' ended. {_last_words(record)}")
        if not record.ports:
            return self._observation(ref, "failed", "Unrecorded", f"The start of '{ref}' was interrupted.")
        if self._runs_as_wrong_user(record):
            message = f"The Ray head of '{ref}' runs as another user than RAYPLANE_LOCAL_USERS asks for."
            return self._observation(ref, "failed", "WrongUser", message)
        return self._probe(ref, record)

    def evidence(self, ref: ClusterRef) -> list[Evidence]:
        """No evidence: a head is one process, and its observation has the last lines of its log."""
        return []

    def ensure(self, ref: ClusterRef, spec: ClusterSpec, launch: LaunchContext) -> None:
        """Start the head in the background, unless it runs, starts or is stopping. Raises Unsupported for workers."""
        if spec.workers.max:
            raise Unsupported(
                f"The backend 'local' gives cluster '{ref}' no worker nodes.",
                remedy="Leave 'workers' out: a local cluster is one node.",
            )
        record = self._record(ref.uid)
        runs = record is not None and record.ports and processes.alive(record)
        if record is not None and runs and not self._runs_as_wrong_user(record):
            return
        self._begin(ref, "start", lambda: self._start(ref, launch))

    def renew(self, ref: ClusterRef, secrets: Mapping[str, str]) -> None:
        """Replace the secret files whose content changed; the cluster's processes read them at each use."""
        record = self._record(ref.uid)
        if record is not None and record.user is not None:
            local_teams.renew_secrets(local_head.folders(self._home.id, ref.uid, record.user), secrets)
            return
        for variable, text in secrets.items():
            path = self._secret_path(ref.uid, variable)
            try:
                if path.exists() and read_secret(path) != text:
                    write_secret(path, text)
            except OSError as exc:
                raise Unavailable(f"'{path}' can't be written: {exc.strerror}.", remedy="Free some space.") from exc

    def suspend(self, ref: ClusterRef, spec: ClusterSpec) -> None:
        """Stop the head and remove all of it: a suspended local cluster is observed as absent."""
        self.delete(ref)

    def delete(self, ref: ClusterRef) -> None:
        """Stop the head and remove its folder, token, log and record, in the background."""
        self._begin(ref, "delete", lambda: self._remove(ref))

    def close(self) -> None:
        """Close the connections to the heads; threads end with their current work."""
        with self._lock:
            for client in self._rest.values():
                client.close()
            self._rest.clear()

    def _begin(self, ref: ClusterRef, kind: Literal["start", "delete"], act: Callable[[], None]) -> None:
        with self._lock:
            before = self._work.get(ref.uid)
            if before is not None and before.running and (kind == "start" or before.kind == kind):
                return
            work = _Work(kind)
            earlier = before.thread if before is not None else None
            work.thread = threading.Thread(
                target=self._do, args=(ref, work, earlier, act), name=f"ray-{kind}-{ref.uid[:8]}", daemon=True
            )
            self._work[ref.uid] = work
            work.thread.start()

    def _do(self, ref: ClusterRef, work: _Work, earlier: threading.Thread | None, act: Callable[[], None]) -> None:
        if earlier is not None:
            earlier.join()
        try:
            act()
        except (RayplaneError, OSError) as exc:
            log.warning("%s of cluster %s failed: %s", work.kind, ref, exc)
            work.error = exc
        except Exception as exc:  # otherwise the work would count as done
            log.exception("%s of cluster %s failed", work.kind, ref)
            work.error = exc
        finally:
            work.done = True

    def _start(self, ref: ClusterRef, launch: LaunchContext) -> None:
        folders = local_head.folders(self._home.id, ref.uid, self._user(ref))
        # A head that was killed leaves agents and workers behind; they must be gone before another starts.
        self._stop(ref)
        self._clear(ref)
        token_path = self._token_path(ref.uid)
        if not token_path.exists():
            write_secret(token_path, secrets.token_hex(32))
        attempt = self._attempts[ref.uid] = self._attempts.get(ref.uid, -1) + 1
        ports = local_head.choose_ports(ref.uid, attempt=attempt, taken=self._ports_in_use(ref.uid), is_free=_is_free)
        store_bytes, slow = local_head.object_store(launch.size.memory, shutil.disk_usage(_SHM).free)
        secret_paths = self._make_folders(ref, folders, launch, token_path)
        head_log = self._log(ref.uid)
        if head_log.exists():
            head_log.replace(head_log.with_suffix(".previous.log"))
        with self._spawning:
            record = processes.start(
                ref.uid,
                local_head.command(ports, launch, folders.ray, store_bytes, warm=folders.warm if self._warm else None),
                mark=local_head.mark(self._home.id, ref.uid),
                log=head_log,
                records=self._records,
                env=local_head.environment(
                    ports,
                    launch,
                    secret_paths,
                    slow_store=slow,
                    inherited={**os.environ, **folders.variables(ref.team)},
                    cores=os.cpu_count() or 1,
                ),
                port=ports["dashboard"],
                cwd=folders.ray,
                user=folders.user,
            )
        head = HeadRecord(
            **record.model_dump(),
            team=ref.team,
            cluster=ref.name,
            ports=ports,
            temp_dir=str(folders.ray),
            token_path=str(token_path),
            launched_at=processes.started_at(record).timestamp(),
            size=launch.size,
        )
        processes.save(head, self._records)
        log.info("started the Ray head of %s", ref, extra={"pid": head.pid, "temp_dir": str(folders.ray)})

    def _make_folders(
        self, ref: ClusterRef, folders: Folders, launch: LaunchContext, token_path: Path
    ) -> dict[str, Path]:
        """Make the cluster's folders and secret files; variable -> the file that its processes read."""
        if folders.user is not None:
            texts = {**launch.secrets, "RAY_AUTH_TOKEN_PATH": read_secret(token_path)}
            local_teams.make_folders(folders, texts)
            return {variable: folders.secrets / variable for variable in texts}
        folders.ray.mkdir(mode=0o700, parents=True)
        if self._warm:
            folders.warm.mkdir(mode=0o700)
        paths = {"RAY_AUTH_TOKEN_PATH": token_path}
        for variable, text in launch.secrets.items():
            path = paths[variable] = self._secret_path(ref.uid, variable)
            write_secret(path, text)
        return paths

    def _remove(self, ref: ClusterRef) -> None:
        self._stop(ref)
        self._clear(ref)
        for path in self._token_path(ref.uid).parent.glob(f"{ref.uid}.*"):
            path.unlink(missing_ok=True)
        for path in self._home.logs.glob(f"ray-{ref.uid}.*"):  # the supervisor rotates it
            path.unlink(missing_ok=True)
        processes.forget(ref.uid, self._records)
        self._attempts.pop(ref.uid, None)

    def _stop(self, ref: ClusterRef) -> None:
        record = self._record(ref.uid)
        if record is not None:
            processes.stop(record, grace=_GRACE)
            self._note_end(ref, record)
        processes.stop_marked(local_head.mark(self._home.id, ref.uid), grace=_GRACE)
        if record is not None and record.user is not None:
            self.end_user(record.user)

    def end_user(self, user: int) -> None:
        """End left-over processes of a user without a running head: they may have escaped the end of their cluster."""
        with self._spawning:
            heads = [record for path in self._records.glob("*.json") if (record := self._record(path.stem)) is not None]
            if not any(head.user == user and processes.alive(head) for head in heads):
                processes.stop_pids(lambda: processes.of_users([user]), grace=0)

    def _runs_as_wrong_user(self, record: HeadRecord) -> bool:
        """True if it runs as the platform's user though teams have their own, or the other way round."""
        return (record.user is None) != (self._teams is None)

    def _clear(self, ref: ClusterRef) -> None:
        for folder in local_head.remains(self._home.id, ref.uid):
            # Their names are no secret, and all users may write to /tmp: what others have planted there stays.
            if trees.is_ours(folder):
                trees.remove(folder)

    def _user(self, ref: ClusterRef) -> int | None:
        """The user that the cluster runs as; None: this process' own. Raises Unavailable before the team has one."""
        if self._teams is None:
            return None
        number = self._teams.number(ref.team)
        if number is None:
            raise Unavailable(
                f"Team '{ref.team}' has no Unix user yet, as which '{ref}' is to run.",
                remedy="It gets one when it is onboarded: see 'rayplane team get'.",
            )
        return number

    def _probe(self, ref: ClusterRef, record: HeadRecord) -> Observation:
        incarnation = local_head.incarnation(record)
        endpoint = _endpoint(record)
        foreign_listener = self._foreign_listener(record)
        if foreign_listener:
            return self._observation(ref, "starting", "PortTaken", foreign_listener, incarnation)
        try:
            self._client(endpoint, incarnation).version()
        except Unauthenticated as exc:
            return self._observation(ref, "failed", "TokenRefused", str(exc), incarnation)
        except RayplaneError as exc:
            # Its process runs: it is starting, or busy. The reconciler decides for how long that is acceptable.
            return self._observation(ref, "starting", "NotAnswering", str(exc), incarnation)
        return replace(
            self._observation(ref, "ready", incarnation=incarnation),
            endpoint=endpoint,
            environment=local_environment.of_this_interpreter(),
        )

    @staticmethod
    def _foreign_listener(record: HeadRecord) -> str:
        """A message if another user listens on the head's port, to whom no token may go; empty if none does."""
        if record.user is None:
            return ""
        port = record.ports["dashboard"]
        others = sorted(processes.listening(port, local_head.NODE_ADDRESS) - {record.user})
        return f"Port {port} of its dashboard is user {others[0]}'s, not user {record.user}'s." if others else ""

    def _observation(
        self, ref: ClusterRef, phase: Phase, reason: str = "", message: str = "", incarnation: str | None = None
    ) -> Observation:
        """Make an observation with the running head and the remembered ended ones as its nodes."""
        record = self._record(ref.uid)
        running: tuple[Node, ...] = ()
        if record is not None and processes.alive(record):
            running = (local_head.node(record),)
        elif record is not None:
            self._note_end(ref, record)
        with self._lock:
            gone = tuple(self._ended_heads.get(ref.uid, {}).values())
        return Observation(
            phase=phase, reason=reason, message=message, incarnation=incarnation, nodes=(*gone, *running)
        )

    def _note_end(self, ref: ClusterRef, record: HeadRecord) -> None:
        node = local_head.node(record)
        with self._lock:
            gone = self._ended_heads.setdefault(ref.uid, {})
            gone.setdefault(node.id, replace(node, ended_at=max(utcnow(), node.started_at)))
            while len(gone) > _MOST_ENDED_HEADS:
                del gone[next(iter(gone))]

    def _client(self, endpoint: Endpoint, incarnation: str) -> RayRest:
        with self._lock:
            client = self._rest.get(incarnation)
            if client is None:
                token = read_secret(Path(endpoint.token_path or ""))
                client = self._rest[incarnation] = RayRest(endpoint.dashboard_url, token, timeout=3.0)
            return client

    def _record(self, uid: str) -> HeadRecord | None:
        try:
            return HeadRecord.model_validate_json((self._records / f"{uid}.json").read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as exc:
            raise Unavailable(
                f"The record '{self._records / uid}.json' is damaged.",
                remedy="Run 'rayplane down', then 'rayplane up'.",
            ) from exc

    def _ports_in_use(self, uid: str) -> Collection[int]:
        taken: set[int] = set()
        for path in self._records.glob("*.json"):
            other = self._record(path.stem) if path.stem != uid else None
            taken.update(other.ports.values() if other else ())
        return taken

    def _token_path(self, uid: str) -> Path:
        return self._home.secrets / "clusters" / f"{uid}.ray"

    def _secret_path(self, uid: str, variable: str) -> Path:
        return self._home.secrets / "clusters" / f"{uid}.{variable.lower()}"

    def _log(self, uid: str) -> Path:
        return self._home.logs / f"ray-{uid}.log"


class LocalPlaces:
    """The place of each team on this host: its Unix user, and that user's folder."""

    def __init__(self, teams: LocalTeams, clusters: LocalClusters) -> None:
        self._teams = teams
        self._clusters = clusters

    def ensure(self, ref: TeamRef, spec: TeamSpec) -> str:
        """Give the team its user and its folder."""
        self._teams.ensure(ref)
        return ""

    def delete(self, ref: TeamRef) -> str:
        """End the processes of the team's user, and retire that user."""
        number = self._teams.delete(ref)
        if number is not None:
            self._clusters.end_user(number)
        return ""


class LocalBackend:
    """Ray heads as processes of this host. One node each; cores are logical.

    With RAYPLANE_LOCAL_USERS each team has a place: a Unix user, as which its heads run, and that user's folder.
    """

    name = "local"
    jobs = None
    services = None

    def __init__(self, settings: GatewaySettings) -> None:
        local_users.require(settings)
        teams = LocalTeams(settings) if settings.local_users else None
        self.clusters = LocalClusters(settings, teams)
        self.teams = LocalPlaces(teams, self.clusters) if teams is not None else None
        self.capabilities = capabilities_of(
            {Capability.CREATE, Capability.SUSPEND, Capability.SERVE, Capability.CLIENT},
            jobs=self.jobs,
            services=self.services,
            teams=self.teams,
        )

    def environment(self, spec: ClusterSpec) -> Environment | None:
        """The environment of this interpreter."""
        return local_environment.of_this_interpreter()

    def real_cores(self) -> int | None:
        """The cores of this host."""
        return os.cpu_count()

    def subscribe(self, changed: Callable[[str], None]) -> None:
        """Raises Unsupported: the reconciler polls heads."""
        raise Unsupported("The backend 'local' reports no changes.", remedy="Observe its clusters instead.")

    def close(self) -> None:
        """Close the connections to the heads; threads end with their current work."""
        self.clusters.close()


@dataclass
class _Work:
    """The current or last work of a cluster's thread."""

    kind: Literal["start", "delete"]
    thread: threading.Thread | None = None
    error: Exception | None = None
    done: bool = False

    @property
    def running(self) -> bool:
        return not self.done


def _endpoint(record: HeadRecord) -> Endpoint:
    ports = record.ports
    node, loopback = local_head.NODE_ADDRESS, local_head.LOOPBACK
    return Endpoint(
        dashboard_url=f"http://{node}:{ports['dashboard']}",
        client_address=f"ray://{loopback}:{ports['client']}",
        token_path=record.token_path,
        serve_url=f"http://{loopback}:{ports['serve']}",
        metrics_targets=[f"{node}:{ports[n]}" for n in ("metrics", "dashboard_metrics", "autoscaler_metrics")],
    )


def _last_words(record: HeadRecord, lines: int = 6) -> str:
    path = Path(record.log or "")
    if not path.is_file():
        return "It left no log."
    with path.open("rb") as file:  # its end only: a team's code writes it, and it may be huge
        file.seek(max(0, os.fstat(file.fileno()).st_size - _LAST_BYTES))
        text = re.sub(r"\x1b\[[0-9;]*m", "", file.read(_LAST_BYTES).decode(errors="replace"))
    lines_left = [line.strip() for line in text.splitlines() if line.strip()]
    return (
        f"Its log '{path}' ends: {' | '.join(lines_left[-lines:])[-1000:]}"
        if lines_left
        else f"Its log '{path}' is empty."
    )


def _is_free(port: int) -> bool:
    return processes.is_free(port, "0.0.0.0")  # noqa: S104  Ray listens there: any listener on any address is in its way


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
