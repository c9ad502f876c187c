"""A machine within this one: namespaces of its own, a cable to the host, a cgroup for its pods.

All that runs on it ends with its first process, and its mounts and links go with the last; what stays with the kernel
(cgroups, settings that a kubelet changes) is put back by hand. It needs root, and names no Kubernetes.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from rayplane import processes
from rayplane.errors import Unavailable

HOST_ADDRESS = "10.99.0.1"
"""Of the host, as the machine and its pods see it."""
ADDRESS = "10.99.0.2"
"""Of the machine."""
CGROUP = "rayplane-bed"
"""Name of its cgroup, below the root of each hierarchy."""

_LINK = "rp-bed"
_SETTINGS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
"""Settings of the whole host, which a kubelet changes without asking."""

# What programs of a node keep below fixed paths lies in the machine's own folder, and is out of the host's sight.
_FIRST_PROCESS = """
set -e
for place in run var/lib var/log; do mount --bind "$1/$place" "/$place"; done
ip link set lo up
touch "$1/is-up"
exec "$2"
"""


class Machine:
    """One machine of this host at a time: the addresses are fixed. Its files are below ``folder``."""

    def __init__(self, folder: Path, *, first_process: Path, routes: list[str]) -> None:
        """``first_process`` reaps what is left to it; ``routes``: what the host reaches through it."""
        self.folder = folder
        self._first_process = first_process
        self._routes = routes
        self._pid = 0
        self._settings: dict[str, str] = {}

    @property
    def enter(self) -> list[str]:
        """Command prefix that runs a program on it instead of on the host."""
        return ["nsenter", f"--target={self._pid}", "--mount", "--net", "--pid", "--"]

    def start(self, *, mark: str, log: Path, records: Path) -> None:
        """Boot it: namespaces, cable, cgroup. Raises Unavailable, saying what this host lacks."""
        require_host()
        self._settings = {name: Path("/proc/sys", name).read_text().strip() for name in _SETTINGS}
        for place in ("run", "var/lib", "var/log"):
            (self.folder / place).mkdir(parents=True)
        argv = [
            "unshare",
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--propagation=private",
        ]
        argv += ["sh", "-c", _FIRST_PROCESS, "sh", str(self.folder), str(self._first_process)]
        record = processes.start(
            "machine", argv, mark=f"{mark}/machine", log=log, records=records, env=dict(os.environ)
        )
        deadline = time.monotonic() + 60.0
        while not (self.folder / "is-up").exists():
            if not processes.alive(record) or time.monotonic() > deadline:
                raise Unavailable(
                    f"This host gives no namespaces to a machine of its own: {log.read_text()[-500:]}",
                    remedy="Run it as root of a host that may unshare mount, network and process namespaces.",
                )
            time.sleep(0.02)
        [self._pid] = _children(record.pid)
        self._connect()
        for cgroup in cgroup_folders():
            _make_cgroup(cgroup)

    def stop(self, *, records: Path) -> None:
        """End all of its processes and restore the host; one that is down is success."""
        record = processes.load("machine", records)
        if record is not None:
            # The kernel ends a process namespace with its first process: every container too.
            processes.stop(record, grace=0.0)
            processes.forget("machine", records)
        _until_gone(_remove_cgroups, "cgroups of the test bed's machine")
        for name, value in self._settings.items():
            Path("/proc/sys", name).write_text(value)
        # The network namespace, and its cable, are removed a moment after its last process.
        _until_gone(lambda: not Path("/sys/class/net", _LINK).exists(), f"link {_LINK}")

    def _connect(self) -> None:
        inside = ["nsenter", f"--target={self._pid}", "--net", "--"]
        # Dummy links need not exist in a kernel; virtual Ethernet and bridges do.
        _run(["ip", "link", "add", _LINK, "type", "veth", "peer", "name", "eth0", "netns", str(self._pid)])
        _run(["ip", "address", "add", f"{HOST_ADDRESS}/30", "dev", _LINK])
        _run(["ip", "link", "set", _LINK, "up"])
        _run([*inside, "ip", "address", "add", f"{ADDRESS}/30", "dev", "eth0"])
        _run([*inside, "ip", "link", "set", "eth0", "up"])
        _run([*inside, "ip", "route", "add", "default", "via", HOST_ADDRESS])
        _run([*inside, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"])
        for network in self._routes:
            _run(["ip", "route", "add", network, "via", ADDRESS])


@contextmanager
def one_at_a_time(mark: str, folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Wait for another's machine on this host to be gone; what a killed bed left is removed first.

    ``mark`` is what all processes of the bed carry, ``folder`` all of its files: for a start after a crash.
    """
    with Path(tempfile.gettempdir(), "rayplane-bed-machine.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another machine of a test bed is up on this host; waiting for it to go")
            fcntl.flock(lock, fcntl.LOCK_EX)
        lock.seek(0)
        _remove(*lock.read().split("\n"))
        _write(lock, f"{mark}\n{folder}")
        yield
        _write(lock, "")


def left_over() -> list[str]:
    """Readable list of what is left of any machine: links, cgroups, mounts."""
    left = [f"link {_LINK}"] if Path("/sys/class/net", _LINK).exists() else []
    left += [f"cgroup {folder}" for folder in cgroup_folders() if folder.exists()]
    return left + sorted(_mounts())


def _mounts() -> set[str]:
    """Mounts of a bed in any process's mount namespace; a process may end meanwhile."""
    points = set()
    for mounts in Path("/proc").glob("[0-9]*/mountinfo"):
        with suppress(OSError):
            points |= {f"mount {line.split()[4]}" for line in mounts.read_text().splitlines() if "/rp-bed-" in line}
    return points


def cgroup_folders() -> list[Path]:
    """The machine's cgroup in every hierarchy that is mounted with controllers, or by a name."""
    folders = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, mount = after.split()[0], before.split()[4]
        if kind == "cgroup" or (kind == "cgroup2" and mount == "/sys/fs/cgroup"):
            folders.append(Path(mount, CGROUP))
    return folders


def _remove(mark: str = "", folder: str = "") -> None:
    if not mark:
        return
    processes.stop_marked(mark, grace=0.0)
    _until_gone(_remove_cgroups, "cgroups of the test bed's machine")
    shutil.rmtree(folder, ignore_errors=True)
    _until_gone(lambda: not Path("/sys/class/net", _LINK).exists(), f"link {_LINK}")


def _write(file: IO[str], text: str) -> None:
    file.truncate(0)
    file.write(text)
    file.flush()


def _make_cgroup(folder: Path) -> None:
    control = folder.parent / "cgroup.subtree_control"
    if control.exists():
        wanted = {"cpu", "cpuset", "memory", "pids"} & set((folder.parent / "cgroup.controllers").read_text().split())
        control.write_text(" ".join(f"+{name}" for name in sorted(wanted)))
    folder.mkdir(exist_ok=True)
    # Its pods come before what else the host does: Ray gives its own start half a minute, however busy the host is.
    for name, value in (("cpu.shares", "16384"), ("cpu.weight", "1600")):
        if (folder / name).exists():
            (folder / name).write_text(value)
    for name in ("cpuset.cpus", "cpuset.mems"):
        # Version 1 starts with empty settings, and then accepts no process.
        if (folder / name).exists() and not control.exists():
            (folder / name).write_text((folder.parent / name).read_text())


def _remove_cgroups() -> bool:
    for root in cgroup_folders():
        for folder, _, _ in os.walk(root, topdown=False):
            with suppress(OSError):  # the process is ending: try again
                os.rmdir(folder)
    return not any(folder.exists() for folder in cgroup_folders())


def _until_gone(gone: Callable[[], bool], what: str, *, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not gone():
        if time.monotonic() > deadline:
            raise Unavailable(f"The {what} can't be removed.", remedy="See which process holds them.")
        time.sleep(0.05)


def _children(pid: int) -> list[int]:
    children = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(entry.read_text().rpartition(")")[2].split()[1]) == pid:
                children.append(int(entry.parent.name))
    return children


def require_host() -> None:
    """Raise Unavailable if a machine can't be made here."""
    if os.geteuid() != 0:
        raise Unavailable("A machine of the test bed needs root.", remedy="Run it as root.")
    if missing := [name for name in ("ip", "unshare", "nsenter", "mount") if shutil.which(name) is None]:
        raise Unavailable(
            f"A machine of the test bed needs {', '.join(missing)}.",
            remedy="Install them: apt-get install iproute2 util-linux mount",
        )


def _run(argv: list[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode != 0:
        raise Unavailable(
            f"'{' '.join(argv)}' failed: {done.stderr.strip()}", remedy="Is the host's network as it was?"
        )
