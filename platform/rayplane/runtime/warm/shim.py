"""Take the place of ``python`` on a node: let its warm interpreter run the command, or exec a plain interpreter.

Run by ``python -I -S``, and imports only modules written in C, since it delays every start on the node, by about 15 ms.
The forked child reads the request, not the warm interpreter, so that the latter never has a command or an environment
in its memory.
"""

import _signal  # type: ignore[import-not-found]  # the built-in part of signal
import _socket
import marshal
import posix
import sys

WORKERS = ("/ray/_private/workers/setup_worker.py", "/ray/_private/workers/default_worker.py")
"""Ends of the paths of Ray's worker scripts; the first is used with a runtime environment."""
ENTRYPOINT = b"RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Environment variable that Ray's job supervisor sets only for an entrypoint."""
PATIENCE = 30.0
"""Seconds within which a forked child must accept or refuse, including the imports of a new warm interpreter."""

_FORWARDED = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2")


def main(python: str, socket_path: str, shim_folder: str) -> None:
    """Run ``sys.argv[1:]`` in a warm child, else by the interpreter ``python``. Never returns."""
    arguments = sys.argv[1:]
    worker = bool(arguments) and arguments[0].endswith(WORKERS)
    entrypoint = not worker and ENTRYPOINT in posix.environ
    if entrypoint:  # processes that the entrypoint starts get a plain Python
        _remove_from_path(shim_folder)
    if (worker or entrypoint) and not (entrypoint and _inherits_files()):
        signals = _Signals() if entrypoint else None
        connection = _ask(socket_path, "worker" if worker else "entrypoint", arguments, signals)
        answer = b"" if connection is None else _receive(connection, 1)
        # The child runs nothing before this confirmation, hence never beside the plain start of a shim that gave up.
        if answer == b"W" and connection is not None and _confirm(connection):
            posix._exit(0)
        if answer == b"E" and connection is not None and signals is not None:
            _wait(connection, signals)
        if signals is not None:
            signals.deliver_here()
    posix.execve(python, [python, *arguments], posix.environ)


def _confirm(connection: "_socket.socket") -> bool:
    try:
        connection.sendall(b"\0")
    except OSError:
        return False
    return True


def _inherits_files() -> bool:
    """True if the command inherited open files besides its standard streams: a forked child would lack them."""
    for name in posix.listdir("/proc/self/fd"):
        try:
            if int(name) > 2 and posix.get_inheritable(int(name)):
                return True
        except OSError:  # the listing's own descriptor is closed by now
            continue
    return False


class _Signals:
    """Signals that arrive from now on: held until it is clear which process gets them. Ignored signals stay ignored."""

    def __init__(self) -> None:
        self._held: list[int] = []
        self._connection: _socket.socket | None = None
        numbers = [getattr(_signal, name) for name in _FORWARDED]
        self.ignored = [int(number) for number in numbers if _signal.getsignal(number) == _signal.SIG_IGN]
        self._caught = [number for number in numbers if int(number) not in self.ignored]
        for number in self._caught:
            _signal.signal(number, self._take)

    def forward(self, connection: "_socket.socket") -> None:
        """Forward held and later signals to the guardian at the connection's other end."""
        self._connection = connection
        while self._held:
            self._take(self._held.pop(0), None)

    def deliver_here(self) -> None:
        """Deliver held signals to this process, with their default action; the plain interpreter gets later ones."""
        for number in self._caught:
            _signal.signal(number, _signal.SIG_DFL)
        for number in self._held:
            posix.kill(posix.getpid(), number)

    def _take(self, number: int, frame: object) -> None:
        if self._connection is None:
            self._held.append(number)
            return
        try:
            self._connection.send(bytes([number]))
        except OSError:
            return  # the guardian has ended: its answer is under way


def _remove_from_path(folder: str) -> None:
    parts = posix.environ.get(b"PATH", b"").split(b":")
    posix.environ[b"PATH"] = b":".join(part for part in parts if part != folder.encode())


def _ask(path: str, kind: str, arguments: list[str], signals: "_Signals | None") -> "_socket.socket | None":
    """Send the command to the warm interpreter; None if there is none, or it does not react."""
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
    """Descriptors of standard input, output and error; opens /dev/null in place of a closed one."""
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
        return  # the group has ended


def _wait(connection: "_socket.socket", signals: _Signals) -> None:
    """Forward signals until the entrypoint ends, then end as it did. Returns only if it was never started."""
    group = int.from_bytes(_receive(connection, 4), "big")
    if not group or not _confirm(connection):
        return
    connection.settimeout(None)
    signals.forward(connection)
    answer = _receive(connection, 4)
    if not answer:  # the guardian was killed
        _kill_group(group)
        posix.kill(posix.getpid(), _signal.SIGKILL)
    status = int.from_bytes(answer, "big")
    if posix.WIFSIGNALED(status):
        number = posix.WTERMSIG(status)
        _signal.signal(number, _signal.SIG_DFL) if number != _signal.SIGKILL else None
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [number])
        posix.kill(posix.getpid(), number)
    posix._exit(posix.WEXITSTATUS(status) if posix.WIFEXITED(status) else 1)
