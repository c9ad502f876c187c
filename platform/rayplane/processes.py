"""A supervised child process: recorded pid, session, start time, port, log and marker; found and stopped by them."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from rayplane.errors import PortTaken, Unavailable

MARK = "RAYPLANE_MARK"
"""Environment variable that every process of a home inherits: ``<home id>`` or ``<home id>/<name>``."""

LISTENER = "RAYPLANE_LISTENER"
"""Environment variable with the number of the listening socket that a child is started with."""

_CONFINE = """
import ctypes, os, sys
if ctypes.CDLL(None, use_errno=True).prctl(38, 1, 0, 0, 0):  # PR_SET_NO_NEW_PRIVS
    raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS)")
os.execv(sys.argv[1], sys.argv[1:])
"""
"""What another user's process runs first, so that no program makes it root again."""


_LISTENING = "0A"


class ProcessRecord(BaseModel):
    """What is known of a child that was started; enough to find it again after a crash."""

    model_config = ConfigDict(extra="ignore")
    name: str
    user: int | None = None
    """The user that it runs as; None: the one that started it."""
    pid: int
    session: int
    started: int
    """Start time in clock ticks since boot, from /proc: tells a reused pid from the child."""
    mark: str
    boot: str = ""
    """Which boot of the host it was started in: after another one, pids and start times tell nothing."""
    port: int | None = None
    log: str | None = None
    argv: list[str] = []


def start(
    name: str,
    argv: Sequence[str],
    *,
    mark: str,
    log: Path,
    records: Path,
    env: Mapping[str, str],
    port: int | None = None,
    listen: str | None = None,
    cwd: Path | None = None,
    user: int | None = None,
) -> ProcessRecord:
    """Start a child in its own session, its output appended to ``log``; record it before returning.

    ``argv`` must hold no secret: every user of the host can read it. With ``listen``, an address, the child gets a
    socket that listens there on ``port`` already (``take_listener``): no other process can take the port while the
    child imports. With ``user``, a number, it runs as that user and the group of that number, in no other group, with
    no way back, and keeps from others what it makes; ``argv`` then begins with a path. Raises PortTaken if ``port`` is
    in use.
    """
    if port is not None and listen is None:
        require_free(port)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output, _listener(port, listen) as descriptor:
        handed = {} if descriptor is None else {LISTENER: str(descriptor)}
        child = subprocess.Popen(
            list(argv) if user is None else [sys.executable, "-I", "-S", "-c", _CONFINE, *argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**env, **handed, MARK: mark},
            pass_fds=() if descriptor is None else (descriptor,),
            cwd=cwd,
            start_new_session=True,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
            umask=-1 if user is None else 0o077,
        )
    record = ProcessRecord(
        name=name,
        user=user,
        pid=child.pid,
        session=child.pid,
        started=_start_time(child.pid) or 0,
        mark=mark,
        boot=_boot(),
        port=port,
        log=str(log),
        argv=list(argv),
    )
    save(record, records)
    return record


def save(record: ProcessRecord, records: Path) -> None:
    """Write the record atomically as ``<records>/<name>.json``."""
    records.mkdir(parents=True, exist_ok=True)
    target = records / f"{record.name}.json"
    partial = target.with_suffix(".partial")
    partial.write_text(record.model_dump_json(indent=1))
    partial.replace(target)


def load(name: str, records: Path) -> ProcessRecord | None:
    """The record of a child, if one was made."""
    path = records / f"{name}.json"
    return ProcessRecord.model_validate_json(path.read_text()) if path.exists() else None


def load_all(records: Path) -> list[ProcessRecord]:
    """All records, by name."""
    if not records.is_dir():
        return []
    return [ProcessRecord.model_validate_json(p.read_text()) for p in sorted(records.glob("*.json"))]


def forget(name: str, records: Path) -> None:
    """Remove a record; one already gone is success."""
    (records / f"{name}.json").unlink(missing_ok=True)


def alive(record: ProcessRecord) -> bool:
    """Whether the very process that was started still runs; one that has ended and waits for its parent does not."""
    return record.boot == _boot() and _start_time(record.pid) == record.started


def started_at(record: ProcessRecord) -> datetime:
    """When the child was started, by the host's clock; the record's start time must be of this boot."""
    ticks = os.sysconf("SC_CLK_TCK")
    since = time.clock_gettime(time.CLOCK_BOOTTIME) - record.started / ticks
    return datetime.now(UTC) - timedelta(seconds=max(0.0, since))


def marked(mark: str) -> list[int]:
    """Pids of all processes whose environment says ``mark`` or ``mark/...``, this one excepted.

    With them all of a session whose leader says so: some processes, as Ray's agents, write their title over their
    environment. The platform starts each of its children as the leader of a session.
    """
    pids = {int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()} - {os.getpid()}
    values = {pid: _mark_of(pid) or "" for pid in pids}
    found = {pid for pid, value in values.items() if value == mark or value.startswith(f"{mark}/")}
    mute = {pid for pid in pids - found if not values[pid] and _session(pid) in found and _start_time(pid) is not None}
    return sorted(found | mute)


def of_users(users: Iterable[int]) -> list[int]:
    """Pids of all processes that run as one of these users, by any of a process' four numbers."""
    wanted = set(users)
    pids = [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()] if wanted else []
    return sorted(pid for pid in pids if wanted & _users(pid) and _start_time(pid) is not None)


def listening(port: int, host: str) -> set[int]:
    """The users of the processes that listen on a port for an IPv4 address of this host, or for all addresses."""
    address = "".join(f"{byte:02X}" for byte in reversed(socket.inet_aton(host)))
    wanted = {f"{place}:{port:04X}" for place in (address, "0" * 8, "0" * 32, f"{'0' * 16}FFFF0000{address}")}
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(FileNotFoundError):  # a host without IPv6
            rows = [line.split() for line in Path(table).read_text().splitlines()[1:]]
            found |= {int(row[7]) for row in rows if row[3] == _LISTENING and row[1] in wanted}
    return found


def stop(record: ProcessRecord, *, grace: float = 10.0) -> None:
    """Stop the child and all that it started: its session and every process with its mark. Blocks until they are gone.

    A child already gone is success. Raises Unavailable naming the pids that survive SIGKILL.
    """
    stop_pids(lambda: _family(record), grace=grace)


def stop_marked(mark: str, *, grace: float = 10.0, spare: Iterable[int] = ()) -> None:
    """Stop every process that carries ``mark``, but for ``spare``. Blocks until they are gone."""
    spared = set(spare)
    stop_pids(lambda: [pid for pid in marked(mark) if pid not in spared], grace=grace)


def stop_pids(find: Callable[[], list[int]], *, grace: float) -> None:
    """SIGTERM what ``find`` returns, wait ``grace`` seconds, SIGKILL what is left; ``find`` is asked each time.

    Returns once all of them have ended wholly, so that their ports are free.
    """
    seen: dict[int, int] = {}

    def remaining() -> list[int]:
        # Who is about to end has no environment any more, hence no mark, while it still holds its ports.
        seen.update({pid: started for pid in find() if (started := _start_time(pid)) is not None})
        return sorted(pid for pid, started in seen.items() if _start_time(pid) == started)

    deadline = time.monotonic() + grace
    _signal(remaining(), signal.SIGTERM)
    while (left := remaining()) and time.monotonic() < deadline:
        _reap(left)
        time.sleep(0.05)
    deadline = time.monotonic() + 10
    while left and time.monotonic() < deadline:
        _signal(left, signal.SIGKILL)
        _reap(left)
        time.sleep(0.05)
        left = remaining()
    if left:
        raise Unavailable(f"Processes {left} do not end.", remedy="Look at them with 'ps', then run this again.")


def free_port(host: str = "127.0.0.1") -> int:
    """A port that is free now. Another process may take it before it is used: retry then."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Several distinct free ports."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind((host, 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def take_listener() -> socket.socket | None:
    """The listening socket that this process was started with, once; None where it is to listen by itself.

    The processes that it starts in turn inherit neither the socket nor the variable that names it.
    """
    number = os.environ.pop(LISTENER, None)
    if number is None:
        return None
    listener = socket.socket(fileno=int(number))
    listener.set_inheritable(False)
    return listener


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a listener could bind the port now."""
    with socket.socket(_family_of(host)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def require_free(port: int, host: str = "127.0.0.1") -> None:
    """Raise PortTaken if the port is in use."""
    if not is_free(port, host):
        raise _port_taken(port, host)


def _port_taken(port: int, host: str) -> PortTaken:
    return PortTaken(
        f"Port {port} on {host} is used by another process.",
        remedy="Stop that process, or choose another port (0 picks a free one).",
    )


def _family_of(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


@contextlib.contextmanager
def _listener(port: int | None, host: str | None) -> Iterator[int | None]:
    """The descriptor of a listening socket for a child to inherit, open here until the child has its own."""
    if port is None or host is None:
        yield None
        return
    try:
        listener = socket.create_server((host, port), family=_family_of(host), backlog=128)
    except OSError as exc:
        if exc.errno != errno.EADDRINUSE:
            raise
        raise _port_taken(port, host) from exc
    with listener:
        yield listener.fileno()


def _family(record: ProcessRecord) -> list[int]:
    pids = {pid for pid in marked(record.mark) if "/" in record.mark}
    # A session's number is free again once all of it have ended, and another boot's numbers mean nothing.
    ours = record.boot == _boot() and _start_time(record.session) in (None, record.started)
    for entry in os.scandir("/proc") if ours else ():
        if entry.name.isdigit() and _session(int(entry.name)) == record.session:
            started = _start_time(int(entry.name))
            if started is not None and started >= record.started:
                pids.add(int(entry.name))
    return sorted(pids - {os.getpid()})


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()


def _start_time(pid: int) -> int | None:
    """In clock ticks since boot; None for a process that is not there, or has ended and waits for its parent."""
    fields = _stat(pid)
    return int(fields[19]) if fields is not None and not (fields[0] in "ZX" and _only_waits(pid)) else None


def _only_waits(pid: int) -> bool:
    # The first thread of a process may have ended while others still hold its memory, files and ports.
    try:
        return len(os.listdir(f"/proc/{pid}/task")) <= 1
    except OSError:
        return True


def _users(pid: int) -> set[int]:
    """The real, effective, saved and file system's user of a process; empty if it is not there."""
    # Not by the owner of its folder: a process that may not be traced has root as that.
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return set()
    return {int(number) for line in lines if line.startswith("Uid:") for number in line.split()[1:]}


def _session(pid: int) -> int | None:
    fields = _stat(pid)
    return int(fields[3]) if fields else None


def _mark_of(pid: int) -> str | None:
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    prefix = f"{MARK}=".encode()
    for item in raw.split(b"\0"):
        if item.startswith(prefix):
            return item[len(prefix) :].decode(errors="replace") if _start_time(pid) is not None else None
    return None


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _reap(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def read_json(path: Path) -> dict[str, object]:
    """A JSON object from a file; empty if the file is missing."""
    if not path.exists():
        return {}
    loaded: dict[str, object] = json.loads(path.read_text())
    return loaded
