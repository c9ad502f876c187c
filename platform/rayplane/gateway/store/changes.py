"""Wake the threads and requests of this process that wait for a write of an object.

Writes of another process wake none, so a waiter also looks again after a while.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


def log_of(uid: str) -> str:
    """The key of a job's log for its waiters."""
    return f"{uid}/log"


class Changes:
    """Listeners by the uid of the object for which each waits. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal handler may call close while its own thread holds the lock
        self._listeners: dict[str, list[Callable[[], None]]] = {}
        self._closed = False

    @property
    def closed(self) -> bool:
        """True once the process ends: waiters should leave."""
        return self._closed

    def tell(self, uids: Iterable[str]) -> None:
        """Call, in this thread, each listener of these objects, which changed."""
        with self._lock:
            listeners = [listener for uid in uids for listener in self._listeners.get(uid, ())]
        for listener in listeners:
            listener()

    def close(self) -> None:
        """Wake every waiter for the last time, since the process ends."""
        with self._lock:
            self._closed = True
            listeners = [listener for listeners in self._listeners.values() for listener in listeners]
        for listener in listeners:
            listener()

    @contextmanager
    def listening(self, uid: str, listener: Callable[[], None]) -> Iterator[None]:
        """Call ``listener`` at each change of the object during the block. It must not block."""
        with self._lock:
            self._listeners.setdefault(uid, []).append(listener)
        try:
            yield
        finally:
            with self._lock:
                left = self._listeners[uid]
                left.remove(listener)
                if not left:
                    del self._listeners[uid]

    @contextmanager
    def watching(self, uid: str) -> Iterator[Watch]:
        """Watch the object during the block, for a thread that waits."""
        watch = Watch()
        with self.listening(uid, watch.changed.set):
            yield watch


class Watch:
    """Flag that is set when an object changes and cleared by ``wait``."""

    def __init__(self) -> None:
        self.changed = threading.Event()

    def wait(self, timeout: float) -> bool:
        """Wait for a change, at most ``timeout`` seconds; True if there was one. Read the object after that."""
        changed = self.changed.wait(timeout)
        self.changed.clear()
        return changed
