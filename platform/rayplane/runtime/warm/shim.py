"""Stand for ``python`` on a node: have its warm interpreter run the command, or become a plain interpreter.

Run by ``python -I -S`` and made of modules in C alone, since each start on the node pays for it: about 15 ms. The
forked child reads what is sent, never the process that forks: no command or environment passes through that one.
"""

import _signal  # type: ignore[import-not-found]  # the built-in part of signal
import _socket
import marshal
import posix
import sys

WORKERS = ("/ray/_private/workers/setup_worker.py", "/ray/_private/workers/default_worker.py")
"""How the scripts end that Ray starts workers with: the former where they have a runtime environment."""
ENTRYPOINT = b"RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray's job supervisor gives it to an entrypoint, and to nothing else."""
PATIENCE = 30.0
"""Seconds that a forked child may take to say whether it takes the command, a new interpreter's imports included."""

_FORWARDED = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2")


def main(python: str, socket_path: str, shim_folder: str) -> None:
    """Run ``sys.argv[1:]`` warm, else plain by the interpreter ``python``. Never returns."""
    arguments = sys.argv[1:]
    worker = bool(arguments) and arguments[0].endswith(WORKERS)
    entrypoint = not worker and ENTRYPOINT in posix.environ
    if entrypoint:  # what the entrypoint starts itself is as plain as anywhere else
        _leave_path(shim_folder)
    if (worker or entrypoint) and not (entrypoint and _hands_on_files()):
        signals = _Signals() if entrypoint else None
        connection = _ask(socket_path, "worker" if worker else "entrypoint", arguments, signals)
        answer = b"" if connection is None else _receive(connection, 1)
        # What the child does it does after this: it never runs beside the plain interpreter of a shim that gave up.
        if answer == b"W" and connection is not None and _go(connection):
            posix._exit(0)
        if answer == b"E" and connection is not None and signals is not None:
            _wait(connection, signals)
        if signals is not None:
            signals.be_hit()
    posix.execve(python, [python, *arguments], posix.environ)


def _go(connection: "_socket.socket") -> bool:
    try:
        connection.sendall(b"\0")
    except OSError:
        return False
    return True


def _hands_on_files() -> bool:
    """Whether the command was given open files beside its standard streams: a forked child would lack them."""
    for name in posix.listdir("/proc/self/fd"):
        try:
            if int(name) > 2 and posix.get_inheritable(int(name)):
                return True
        except OSError:  # that of the listing itself
            continue
    return False


class _Signals:
    """What arrives from now on: kept until it is known who is to have it. What is ignored stays so."""

    def __init__(self) -> None:
        self._kept: list[int] = []
        self._connection: _socket.socket | None = None
        numbers = [getattr(_signal, name) for name in _FORWARDED]
        self.ignored = [int(number) for number in numbers if _signal.getsignal(number) == _signal.SIG_IGN]
        self._taken = [number for number in numbers if int(number) not in self.ignored]
        for number in self._taken:
            _signal.signal(number, self._take)

    def pass_on(self, connection: "_socket.socket") -> None:
        """Give them to the guardian at the connection's other end, those to come too."""
        self._connection = connection
        while self._kept:
            self._take(self._kept.pop(0), None)

    def be_hit(self) -> None:
        """Have those that came end this process, as they would have; the plain interpreter gets those to come."""
        for number in self._taken:
            _signal.signal(number, _signal.SIG_DFL)
        for number in self._kept:
            posix.kill(posix.getpid(), number)

    def _take(self, number: int, frame: object) -> None:
        if self._connection is None:
            self._kept.append(number)
            return
        try:
            self._connection.send(bytes([number]))
        except OSError:
            return  # it has ended: the answer is under way


def _leave_path(folder: str) -> None:
    parts = posix.environ.get(b"PATH", b"").split(b":")
    posix.environ[b"PATH"] = b":".join(part for part in parts if part != folder.encode())


def _ask(path: str, kind: str, arguments: list[str], signals: "_Signals | None") -> "_socket.socket | None":
    """Send the command to the warm interpreter; None where there is none, or it is stuck."""
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        connection.settimeout(PATIENCE)
        connection.connect(path)
        umask = posix.umask(0)
        posix.umask(umask)
        body = marshal.dumps(
            {
                "kind": kind,
                "arguments": arguments,
                "environment": dict(posix.environ),
                "folder": posix.getcwdb(),
                "umask": umask,
                "group": posix.getpgrp(),
                "blocked": [int(number) for number in _signal.pthread_sigmask(_signal.SIG_BLOCK, [])],
                "ignored": [] if signals is None else signals.ignored,
            }
        )
        descriptors = b"".join(number.to_bytes(4, sys.byteorder) for number in _streams())
        head = len(body).to_bytes(8, "big")
        connection.sendmsg([head], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, descriptors)])
        connection.sendall(body)
    except OSError:
        connection.close()
        return None
    return connection


def _streams() -> list[int]:
    """Standard input, output and error, each open: a closed one would shift the others."""
    for number in (0, 1, 2):
        try:
            posix.fstat(number)
        except OSError:
            while posix.open("/dev/null", posix.O_RDWR) < number:
                pass
    return [0, 1, 2]


def _receive(connection: "_socket.socket", size: int) -> bytes:
    data = b""
    try:
        while len(data) < size:
            part = connection.recv(size - len(data))
            if not part:
                return b""
            data += part
    except OSError:
        return b""
    return data


def _kill_group(group: int) -> None:
    try:
        posix.killpg(group, _signal.SIGKILL)
    except OSError:
        return  # it has ended


def _wait(connection: "_socket.socket", signals: _Signals) -> None:
    """Pass signals on until the entrypoint has ended, then end as it did. Returns only if it never began."""
    group = int.from_bytes(_receive(connection, 4), "big")
    if not group or not _go(connection):
        return
    connection.settimeout(None)
    signals.pass_on(connection)
    answer = _receive(connection, 4)
    if not answer:  # its guardian was killed
        _kill_group(group)
        posix.kill(posix.getpid(), _signal.SIGKILL)
    status = int.from_bytes(answer, "big")
    if posix.WIFSIGNALED(status):
        number = posix.WTERMSIG(status)
        _signal.signal(number, _signal.SIG_DFL) if number != _signal.SIGKILL else None
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [number])
        posix.kill(posix.getpid(), number)
    posix._exit(posix.WEXITSTATUS(status) if posix.WIFEXITED(status) else 1)
