"""Wake the threads and requests of this process that wait for an object to be written.

Another process' writes wake none: a waiter looks again after a while all the same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


def log_of(uid: str) -> str:
    """What a job's log is known by to those who wait for more of it."""
    return f"{uid}/log"


class Changes:
    """Listeners by the uid of the object that each waits for. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal handler may close while its own thread is within
        self._listeners: dict[str, list[Callable[[], None]]] = {}
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether the process ends: waiters should leave."""
        return self._closed

    def tell(self, uids: Iterable[str]) -> None:
        """Something of these objects changed: call each listener, in this thread."""
        with self._lock:
            listeners = [listener for uid in uids for listener in self._listeners.get(uid, ())]
        for listener in listeners:
            listener()

    def close(self) -> None:
        """Wake every waiter, for the last time."""
        with self._lock:
            self._closed = True
            listeners = [listener for listeners in self._listeners.values() for listener in listeners]
        for listener in listeners:
            listener()

    @contextmanager
    def listening(self, uid: str, listener: Callable[[], None]) -> Iterator[None]:
        """Have ``listener`` called at each change of the object for the length of the block. It must not block."""
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
        """A watch over the object for the length of the block, for a thread that waits."""
        watch = Watch()
        with self.listening(uid, watch.changed.set):
            yield watch


class Watch:
    """Whether an object changed since it was last looked at."""

    def __init__(self) -> None:
        self.changed = threading.Event()

    def wait(self, timeout: float) -> bool:
        """Wait until it changed, at most ``timeout`` seconds; whether it did. Look at the object after that."""
        changed = self.changed.wait(timeout)
        self.changed.clear()
        return changed
