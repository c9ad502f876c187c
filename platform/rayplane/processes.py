"""Start child processes and record pid, session, start time and mark, by which they are found and stopped later."""

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
"""Environment variable that marks every process of a home: ``<home id>`` or ``<home id>/<name>``; inherited."""

LISTENER = "RAYPLANE_LISTENER"
"""Environment variable with the file descriptor of the listening socket that a child inherits."""

_NO_NEW_PRIVILEGES = """
import ctypes, os, sys
if ctypes.CDLL(None, use_errno=True).prctl(38, 1, 0, 0, 0):  # PR_SET_NO_NEW_PRIVS
    raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS)")
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Python code that a process of another user runs first, so that no setuid program can make it root again."""

_LISTENING = "0A"
"""State of a listening socket in /proc/net/tcp."""


class ProcessRecord(BaseModel):
    """Record of a started child, sufficient to find it again after a crash."""

    model_config = ConfigDict(extra="ignore")
    name: str
    user: int | None = None
    """Uid that the child runs as; None for that of its parent."""
    pid: int
    session: int
    started: int
    """Start time in clock ticks since boot, from /proc; distinguishes the child from a later process of its pid."""
    mark: str
    boot: str = ""
    """Id of the host's boot in which the child started; pids and start times mean nothing in another boot."""
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
    """Start a child in its own session, with its output appended to ``log``, and record it.

    ``argv`` must have no secret, since every user of the host can read it. With the address ``listen``, the child
    inherits a socket that already listens on ``port`` (see ``take_listener``), so that no other process can take the
    port while the child imports. With ``user``, the child runs as that uid and the gid of the same number, in no other
    group, can't regain privileges, and creates files that only it can access; ``argv`` must then begin with a path.
    Raises PortTaken if ``port`` is in use.
    """
    if port is not None and listen is None:
        require_free(port)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output, _listener(port, listen) as descriptor:
        listener_env = {} if descriptor is None else {LISTENER: str(descriptor)}
        child = subprocess.Popen(
            list(argv) if user is None else [sys.executable, "-I", "-S", "-c", _NO_NEW_PRIVILEGES, *argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**env, **listener_env, MARK: mark},
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
    """Read a child's record; None if there is none."""
    path = records / f"{name}.json"
    return ProcessRecord.model_validate_json(path.read_text()) if path.exists() else None


def forget(name: str, records: Path) -> None:
    """Remove a record; succeeds if it is gone already."""
    (records / f"{name}.json").unlink(missing_ok=True)


def alive(record: ProcessRecord) -> bool:
    """True if the recorded process still runs; a zombie, or a later process with the same pid, does not count."""
    return record.boot == _boot() and _start_time(record.pid) == record.started


def started_at(record: ProcessRecord) -> datetime:
    """Time at which the child started; the record must be of the present boot."""
    ticks = os.sysconf("SC_CLK_TCK")
    since = time.clock_gettime(time.CLOCK_BOOTTIME) - record.started / ticks
    return datetime.now(UTC) - timedelta(seconds=max(0.0, since))


def marked(mark: str) -> list[int]:
    """Pids of all processes with the mark ``mark`` or ``mark/...`` in their environment, except this process.

    Includes unmarked processes in the session of a marked leader, since some, such as Ray's agents, overwrite their
    environment with a process title. The platform starts each of its children as a session leader.
    """
    pids = {int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()} - {os.getpid()}
    values = {pid: _mark_of(pid) or "" for pid in pids}
    named = {pid for pid, value in values.items() if value == mark or value.startswith(f"{mark}/")}
    unmarked = {
        pid for pid in pids - named if not values[pid] and _session(pid) in named and _start_time(pid) is not None
    }
    return sorted(named | unmarked)


def of_users(users: Iterable[int]) -> list[int]:
    """Pids of all processes that run as one of these uids: real, effective, saved or file system uid."""
    wanted = set(users)
    pids = [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()] if wanted else []
    return sorted(pid for pid in pids if wanted & _users(pid) and _start_time(pid) is not None)


def listening(port: int, host: str) -> set[int]:
    """Uids of the processes that listen on a port of an IPv4 address of this host, or of all its addresses."""
    address = "".join(f"{byte:02X}" for byte in reversed(socket.inet_aton(host)))
    wanted = {f"{local}:{port:04X}" for local in (address, "0" * 8, "0" * 32, f"{'0' * 16}FFFF0000{address}")}
    users = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(FileNotFoundError):  # a host without IPv6
            rows = [line.split() for line in Path(table).read_text().splitlines()[1:]]
            users |= {int(row[7]) for row in rows if row[3] == _LISTENING and row[1] in wanted}
    return users


def stop(record: ProcessRecord, *, grace: float = 10.0) -> None:
    """Stop a child, its session and every process with its mark. Blocks until all are gone.

    Succeeds if the child is gone already. Raises Unavailable naming the pids that survive SIGKILL.
    """
    stop_pids(lambda: _family(record), grace=grace)


def stop_marked(mark: str, *, grace: float = 10.0, spare: Iterable[int] = ()) -> None:
    """Stop every process with the mark ``mark``, except those in ``spare``. Blocks until they are gone."""
    spared = set(spare)
    stop_pids(lambda: [pid for pid in marked(mark) if pid not in spared], grace=grace)


def stop_pids(find: Callable[[], list[int]], *, grace: float) -> None:
    """Send SIGTERM to the pids that ``find`` returns, after ``grace`` seconds SIGKILL; ``find`` is called repeatedly.

    Returns once all have ended completely, so that their ports are free. Raises Unavailable if some survive SIGKILL.
    """
    known: dict[int, int] = {}

    def remaining() -> list[int]:
        # An ending process loses its environment, hence its mark, before it releases its ports: remember known pids.
        known.update({pid: started for pid in find() if (started := _start_time(pid)) is not None})
        return sorted(pid for pid, started in known.items() if _start_time(pid) == started)

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
    """A port that is free now. Another process may take it before its use: retry then."""
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
    """Take the listening socket that this process inherited; None if it must open its own, or on a second call.

    Child processes of this one inherit neither the socket nor the variable that names it.
    """
    number = os.environ.pop(LISTENER, None)
    if number is None:
        return None
    listener = socket.socket(fileno=int(number))
    listener.set_inheritable(False)
    return listener


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """True if a listener could bind the port now."""
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
    """Open a listening socket for a child to inherit; yield its descriptor, and close it in this process at the end."""
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
    # A session id may be reused once the whole session has ended, and means nothing in another boot.
    session_is_ours = record.boot == _boot() and _start_time(record.session) in (None, record.started)
    for entry in os.scandir("/proc") if session_is_ours else ():
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
    """Start time in clock ticks since boot; None for a zombie or a pid without a process."""
    fields = _stat(pid)
    return int(fields[19]) if fields is not None and not (fields[0] in "ZX" and _has_no_other_thread(pid)) else None


def _has_no_other_thread(pid: int) -> bool:
    # If only the main thread has ended, the state is Z although other threads still hold memory, files and ports.
    try:
        return len(os.listdir(f"/proc/{pid}/task")) <= 1
    except OSError:
        return True


def _users(pid: int) -> set[int]:
    """The real, effective, saved and file system uid of a process; empty if there is no such process."""
    # Not the owner of /proc/<pid>, which is root for a process that may not be traced.
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
    """Read a JSON object from a file; empty if the file is missing."""
    if not path.exists():
        return {}
    loaded: dict[str, object] = json.loads(path.read_text())
    return loaded
