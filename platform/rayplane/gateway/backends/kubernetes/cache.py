"""What the API server said last, kept current by a watch for each kind: looking at it costs no call.

An informer lists its kind once, then follows the watch from there, through broken connections; where a watch is too old
it lists anew, and what went meanwhile is told as deleted. What the platform writes itself is learned at once. Objects
are trimmed by who asks for the kind, for thousands of them are held. Decides nothing about what they mean.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from rayplane.errors import Forbidden, InvalidInput, RayplaneError, Unavailable
from rayplane.gateway.backends.kubernetes.api import Change, Expired, KubeApi
from rayplane.gateway.backends.kubernetes.kinds import SELECTOR, UID, Kind, Object
from rayplane.repeats import Repeats

log = logging.getLogger(__name__)

Key = tuple[str, str]
"""Namespace (empty where the kind has none) and name."""

Trim = Callable[[Object], Object]
Told = Callable[[Object | None, Object | None], None]
"""What is called with an object before and after a change; None before it was made, and after it went."""

_LEAST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
_LASTS = 30.0
"""Seconds after which a refusal is no mere moment of an API server that comes back."""
_REMEMBERED = 300.0
"""Seconds for which the end of an object is remembered, so that a late answer does not bring it back."""


class Whose(NamedTuple):
    """By what things are known to belong to an object of the platform's."""

    namespace: str
    uid: str


class Informer:
    """All objects of one kind that are the platform's. Thread-safe; a thread of its own follows the watch."""

    def __init__(
        self,
        api: KubeApi,
        kind: Kind,
        *,
        trim: Trim = lambda obj: obj,
        told: Told | None = None,
        labels: str = SELECTOR,
    ) -> None:
        self.kind = kind
        self._api = api
        self._trim = trim
        self._told = told
        self._labels = labels
        self._lock = threading.Lock()
        self._errors = Repeats(log)
        self._objects: dict[Key, Object] = {}
        self._owned: dict[Whose, set[Key]] = {}
        self._ended: dict[Key, tuple[int, float]] = {}
        self._synced = threading.Event()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._down_since: float | None = None
        self._error: RayplaneError | None = None
        self._error_since = 0.0

    def start(self) -> None:
        """Begin to follow, unless it does already."""
        with self._lock:
            if self._thread is None and not self._closed.is_set():
                self._down_since = time.monotonic()
                self._thread = threading.Thread(target=self._run, name=f"watch-{self.kind.plural}", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Begin to end; ``close`` waits for it, once its API has interrupted what it waits for."""
        self._closed.set()

    def close(self) -> None:
        """Wait until nothing is followed any more."""
        self.stop()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=5.0)

    def require(self, patience: float) -> None:
        """Return once what is held can be relied on.

        Raises Unavailable if nothing was heard from the API server for longer than ``patience`` seconds, and Forbidden
        or InvalidInput if it can't be asked at all.
        """
        self.start()
        with self._lock:
            down = self._down_since
        if down is not None and not self._synced.is_set():
            self._synced.wait(max(0.0, down + patience - time.monotonic()))
        with self._lock:
            down, error = self._down_since, self._error
            since = self._error_since
        if self._synced.is_set() and (down is None or time.monotonic() - down <= patience) and self._alive():
            return
        # An API server that comes back knows nobody's rights for a moment: what was heard before is refused for good
        # only if that lasts.
        if isinstance(error, Forbidden | InvalidInput) and (
            not self._synced.is_set() or time.monotonic() - since > _LASTS
        ):
            raise error
        seconds = f"{time.monotonic() - down:.0f} s" if down is not None else "a while"
        raise Unavailable(
            f"Kubernetes' API server has not told of its {self.kind} for {seconds}"
            + (f": {error.detail}" if error is not None else "."),
            remedy="What runs goes on; look at the API server if this lasts.",
        ) from error

    def get(self, namespace: str, name: str) -> Object | None:
        """One object; never to be changed by the caller."""
        with self._lock:
            return self._objects.get((namespace, name))

    def of(self, whose: Whose) -> list[Object]:
        """The objects that belong to somebody, by their label.

        Anybody may write any label on what they make where they may: what is in another namespace is not its.
        """
        with self._lock:
            return [self._objects[key] for key in sorted(self._owned.get(whose, ()))]

    def learn(self, obj: Object) -> Object:
        """Take in an object that the API server just answered with, ahead of the watch; what is kept of it."""
        kept = self._trim(obj)
        self._put(obj, kept)
        return kept

    def learn_deletion(self, obj: Object) -> None:
        """Take in that an object's deletion was asked for: it counts as being deleted until the watch says more."""
        key = _key(obj)
        with self._lock:
            held = self._objects.get(key)
            if held is None or held["metadata"]["uid"] != obj["metadata"]["uid"]:
                return
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            marked = {**held, "metadata": {**held["metadata"], "deletionTimestamp": now}}
            self._objects[key] = marked
        self._tell(held, marked)

    def _run(self) -> None:
        pause = _LEAST_PAUSE
        version: str | None = None
        while not self._closed.is_set():
            try:
                if version is None:
                    version = self._list()
                    pause = _LEAST_PAUSE
                for change in self._api.watch(self.kind, version, labels=self._labels):
                    version = self._follow(change)
                    pause = _LEAST_PAUSE
                    self._errors.works(str(self.kind))
                self._closed.wait(_LEAST_PAUSE)  # it ended by itself, as it does every few minutes
                continue
            except Expired as exc:
                log.info("the watch of %s is too old and starts over: %s", self.kind, exc)
                version = None
            except RayplaneError as exc:
                if self._closed.is_set():
                    return
                if self._note(exc):
                    log.warning("the watch of %s broke off: %s", self.kind, exc)
            except Exception as exc:  # noqa: BLE001  it goes on, whatever it was: nobody else would begin it anew
                self._note(Unavailable(f"The watch of {self.kind} failed: {exc!r}.", remedy="It is tried again."))
                self._errors.failed(str(self.kind), exc, "the watch of %s failed", self.kind)
                version = None
            self._closed.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _note(self, error: RayplaneError) -> bool:
        """Keep why nothing is heard; whether that is news."""
        with self._lock:
            is_news = type(self._error) is not type(error)
            self._error_since = time.monotonic() if is_news else self._error_since
            self._error = error
            self._down_since = self._down_since or time.monotonic()
        return is_news

    def _list(self) -> str:
        """Take in the whole list; what is held and not in it has gone. The version from which to watch."""
        version, seen = "", set()
        for page in self._api.pages(self.kind, labels=self._labels):
            version = page.resource_version
            for obj in page.items:
                seen.add(_key(obj))
                self._put(obj)
        with self._lock:
            gone = [
                obj
                for key, obj in self._objects.items()
                if key not in seen and int(obj["metadata"]["resourceVersion"]) <= int(version)
            ]
        for obj in gone:
            self._remove(obj, int(version))
        self._heard()
        self._synced.set()
        return version

    def _follow(self, change: Change) -> str:
        version: str = change.object["metadata"]["resourceVersion"]
        self._heard()
        if change.type == "DELETED":
            self._remove(change.object, int(version))
        elif change.type != "BOOKMARK":
            self._put(change.object)
        return version

    def _heard(self) -> None:
        with self._lock:
            self._down_since = self._error = None

    def _put(self, obj: Object, trimmed: Object | None = None) -> None:
        # Versions are comparable: Kubernetes promises it since 1.35, and etcd's revisions always were.
        key, version = _key(obj), int(obj["metadata"]["resourceVersion"])
        with self._lock:
            if self._is_known(key, version):
                return
        trimmed = trimmed or self._trim(obj)  # not under the lock: it takes a while
        with self._lock:
            if self._is_known(key, version):
                return
            before = self._objects.get(key)
            self._objects[key] = trimmed
            if before is not None and _owner(before) != _owner(trimmed):
                self._disown(key, before)
            self._owned.setdefault(_owner(trimmed), set()).add(key)
        self._tell(before, trimmed)

    def _is_known(self, key: Key, version: int) -> bool:
        """Whether this version, or a later one, or its end, was taken in. The lock is held."""
        held = self._objects.get(key)
        if held is not None and int(held["metadata"]["resourceVersion"]) >= version:
            return True
        return self._ended.get(key, (0, 0.0))[0] >= version

    def _remove(self, obj: Object, version: int) -> None:
        key, now = _key(obj), time.monotonic()
        with self._lock:
            before = self._objects.get(key)
            if before is None or int(before["metadata"]["resourceVersion"]) > version:
                return
            del self._objects[key]
            self._disown(key, before)
            self._ended = {k: end for k, end in self._ended.items() if now - end[1] < _REMEMBERED}
            self._ended[key] = (version, now)
        self._tell(before, None)

    def _disown(self, key: Key, obj: Object) -> None:
        keys = self._owned.get(_owner(obj), set())
        keys.discard(key)
        if not keys:
            self._owned.pop(_owner(obj), None)

    def _tell(self, before: Object | None, after: Object | None) -> None:
        if self._told is not None:
            self._told(before, after)

    def _alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()


class Cache:
    """The informers of several kinds, started together when first needed and closed together."""

    def __init__(self, api: KubeApi, *, patience: float) -> None:
        self._api = api
        self._patience = patience
        self._informers: dict[Kind, Informer] = {}

    def add(self, kind: Kind, *, trim: Trim = lambda obj: obj, told: Told | None = None) -> Informer:
        """Hold a kind; nothing is asked before it is required."""
        informer = self._informers[kind] = Informer(self._api, kind, trim=trim, told=told)
        return informer

    def __getitem__(self, kind: Kind) -> Informer:
        return self._informers[kind]

    def require(self, *kinds: Kind) -> None:
        """Return once what is held of the kinds can be relied on; raises as ``Informer.require`` does."""
        for kind in kinds:
            self._informers[kind].start()
        for kind in kinds:
            self._informers[kind].require(self._patience)

    def stop(self) -> None:
        """Begin to end all of them."""
        for informer in self._informers.values():
            informer.stop()

    def close(self) -> None:
        """Wait until none follows anything any more; their API is interrupted before, and closed after."""
        for informer in self._informers.values():
            informer.close()


def without_managed_fields(obj: Object) -> Object:
    """An object without the bookkeeping of who set what, which is half of its size."""
    with suppress(KeyError):
        del obj["metadata"]["managedFields"]
    return obj


def _key(obj: Object) -> Key:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _owner(obj: Object) -> Whose:
    labels: dict[str, str] = obj["metadata"].get("labels") or {}
    return Whose(obj["metadata"].get("namespace", ""), labels.get(UID, ""))
