"""The newest known objects of the API server, kept current by one watch for each kind: reading them costs no call.

An informer lists its kind once, then follows a watch from there and resumes it after broken connections. If the watch
is too old to resume, the informer lists again and reports the objects that vanished meanwhile as deleted. The caller
hands in the answers to its own writes, so that they are known at once. Each kind has a function that trims its objects,
since the cache holds thousands of them. Nothing here interprets an object.
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
OnChange = Callable[[Object | None, Object | None], None]
"""Callback with an object before and after a change: None before its creation and after its deletion."""

_LEAST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
_REFUSAL_LASTS = 30.0
"""Seconds after which a refusal counts: an API server that is starting refuses valid rights for a moment."""
_DELETION_REMEMBERED = 300.0
"""Seconds for which a deletion is remembered, so that a late answer does not bring the object back."""


class OwnerKey(NamedTuple):
    """Key of all objects that belong to one object of the platform: its namespace, and the uid in their label."""

    namespace: str
    uid: str


class Informer:
    """All of the platform's objects of one kind. Thread-safe; a thread of its own follows the watch."""

    def __init__(
        self,
        api: KubeApi,
        kind: Kind,
        *,
        trim: Trim = lambda obj: obj,
        on_change: OnChange | None = None,
        labels: str = SELECTOR,
    ) -> None:
        self.kind = kind
        self._api = api
        self._trim = trim
        self._on_change = on_change
        self._labels = labels
        self._lock = threading.Lock()
        self._errors = Repeats(log)
        self._objects: dict[Key, Object] = {}
        self._owned: dict[OwnerKey, set[Key]] = {}
        self._deleted: dict[Key, tuple[int, float]] = {}
        self._synced = threading.Event()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._down_since: float | None = None
        self._error: RayplaneError | None = None
        self._error_since = 0.0

    def start(self) -> None:
        """Start to follow the kind, unless that is started already."""
        with self._lock:
            if self._thread is None and not self._closed.is_set():
                self._down_since = time.monotonic()
                self._thread = threading.Thread(target=self._run, name=f"watch-{self.kind.plural}", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end. ``KubeApi.interrupt`` then ends its wait, and ``close`` waits for the thread."""
        self._closed.set()

    def close(self) -> None:
        """Wait until the thread has ended, for at most 5 s."""
        self.stop()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=5.0)

    def require(self, patience: float) -> None:
        """Return once the cached objects can be relied on.

        Raises Unavailable if the API server has not been heard for longer than ``patience`` seconds, and Forbidden or
        InvalidInput if the gateway can't ask it at all.
        """
        self.start()
        with self._lock:
            down = self._down_since
        if down is not None and not self._synced.is_set():
            self._synced.wait(max(0.0, down + patience - time.monotonic()))
        with self._lock:
            down, error = self._down_since, self._error
            since = self._error_since
        if self._synced.is_set() and (down is None or time.monotonic() - down <= patience) and self._is_alive():
            return
        # An API server that is starting knows no rights for a moment: after a first sync, raise a refusal only if it
        # lasts.
        if isinstance(error, Forbidden | InvalidInput) and (
            not self._synced.is_set() or time.monotonic() - since > _REFUSAL_LASTS
        ):
            raise error
        seconds = f"{time.monotonic() - down:.0f} s" if down is not None else "a while"
        raise Unavailable(
            f"Kubernetes' API server has sent no news of its {self.kind} for {seconds}"
            + (f": {error.detail}" if error is not None else "."),
            remedy="Running work is not affected; check the API server if this lasts.",
        ) from error

    def get(self, namespace: str, name: str) -> Object | None:
        """One object, or None. The caller must not change it."""
        with self._lock:
            return self._objects.get((namespace, name))

    def of(self, owner: OwnerKey) -> list[Object]:
        """The objects with this owner's uid in their label, in the owner's namespace only.

        A user can put any label on objects in their own namespace: a label there does not confer ownership.
        """
        with self._lock:
            return [self._objects[key] for key in sorted(self._owned.get(owner, ()))]

    def learn(self, obj: Object) -> Object:
        """Take in the answer to a write, ahead of the watch; returns the trimmed object."""
        trimmed = self._trim(obj)
        self._put(obj, trimmed)
        return trimmed

    def learn_deletion(self, obj: Object) -> None:
        """Mark an object as being deleted, until the watch reports its new version or its end."""
        key = _key(obj)
        with self._lock:
            cached = self._objects.get(key)
            if cached is None or cached["metadata"]["uid"] != obj["metadata"]["uid"]:
                return
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            marked = {**cached, "metadata": {**cached["metadata"], "deletionTimestamp": now}}
            self._objects[key] = marked
        self._notify(cached, marked)

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
                self._closed.wait(_LEAST_PAUSE)  # the API server ended the watch, as it does every few minutes
                continue
            except Expired as exc:
                log.info("the watch of %s is too old to resume, listing again: %s", self.kind, exc)
                version = None
            except RayplaneError as exc:
                if self._closed.is_set():
                    return
                if self._record(exc):
                    log.warning("the watch of %s broke off: %s", self.kind, exc)
            except Exception as exc:  # noqa: BLE001  go on after any error: nothing else would restart this thread
                self._record(
                    Unavailable(f"The watch of {self.kind} failed: {exc!r}.", remedy="The gateway tries again.")
                )
                self._errors.failed(str(self.kind), exc, "the watch of %s failed", self.kind)
                version = None
            self._closed.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _record(self, error: RayplaneError) -> bool:
        """Record why the API server is not heard; True if the error is of another type than the last."""
        with self._lock:
            is_news = type(self._error) is not type(error)
            self._error_since = time.monotonic() if is_news else self._error_since
            self._error = error
            self._down_since = self._down_since or time.monotonic()
        return is_news

    def _list(self) -> str:
        """Take in the whole list and remove cached objects that are not in it; returns the version to watch from."""
        version, listed = "", set()
        for page in self._api.pages(self.kind, labels=self._labels):
            version = page.resource_version
            for obj in page.items:
                listed.add(_key(obj))
                self._put(obj)
        with self._lock:
            gone = [
                obj
                for key, obj in self._objects.items()
                if key not in listed and int(obj["metadata"]["resourceVersion"]) <= int(version)
            ]
        for obj in gone:
            self._remove(obj, int(version))
        self._mark_heard()
        self._synced.set()
        return version

    def _follow(self, change: Change) -> str:
        version: str = change.object["metadata"]["resourceVersion"]
        self._mark_heard()
        if change.type == "DELETED":
            self._remove(change.object, int(version))
        elif change.type != "BOOKMARK":
            self._put(change.object)
        return version

    def _mark_heard(self) -> None:
        with self._lock:
            self._down_since = self._error = None

    def _put(self, obj: Object, trimmed: Object | None = None) -> None:
        # Versions are comparable: Kubernetes promises it since 1.35, and etcd's revisions always were.
        key, version = _key(obj), int(obj["metadata"]["resourceVersion"])
        with self._lock:
            if self._is_known(key, version):
                return
        trimmed = trimmed or self._trim(obj)  # outside the lock: it takes a while
        with self._lock:
            if self._is_known(key, version):
                return
            before = self._objects.get(key)
            self._objects[key] = trimmed
            if before is not None and _owner(before) != _owner(trimmed):
                self._disown(key, before)
            self._owned.setdefault(_owner(trimmed), set()).add(key)
        self._notify(before, trimmed)

    def _is_known(self, key: Key, version: int) -> bool:
        """True if this or a later version, or the deletion, was taken in before. The caller holds the lock."""
        cached = self._objects.get(key)
        if cached is not None and int(cached["metadata"]["resourceVersion"]) >= version:
            return True
        return self._deleted.get(key, (0, 0.0))[0] >= version

    def _remove(self, obj: Object, version: int) -> None:
        key, now = _key(obj), time.monotonic()
        with self._lock:
            before = self._objects.get(key)
            if before is None or int(before["metadata"]["resourceVersion"]) > version:
                return
            del self._objects[key]
            self._disown(key, before)
            self._deleted = {k: end for k, end in self._deleted.items() if now - end[1] < _DELETION_REMEMBERED}
            self._deleted[key] = (version, now)
        self._notify(before, None)

    def _disown(self, key: Key, obj: Object) -> None:
        keys = self._owned.get(_owner(obj), set())
        keys.discard(key)
        if not keys:
            self._owned.pop(_owner(obj), None)

    def _notify(self, before: Object | None, after: Object | None) -> None:
        if self._on_change is not None:
            self._on_change(before, after)

    def _is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()


class Cache:
    """The informers of several kinds, started when first needed and closed together."""

    def __init__(self, api: KubeApi, *, patience: float) -> None:
        self._api = api
        self._patience = patience
        self._informers: dict[Kind, Informer] = {}

    def add(self, kind: Kind, *, trim: Trim = lambda obj: obj, on_change: OnChange | None = None) -> Informer:
        """Add a kind. The API server is not asked before ``require``."""
        informer = self._informers[kind] = Informer(self._api, kind, trim=trim, on_change=on_change)
        return informer

    def __getitem__(self, kind: Kind) -> Informer:
        return self._informers[kind]

    def require(self, *kinds: Kind) -> None:
        """Return once the cached objects of these kinds can be relied on; raises what ``Informer.require`` raises."""
        for kind in kinds:
            self._informers[kind].start()
        for kind in kinds:
            self._informers[kind].require(self._patience)

    def stop(self) -> None:
        """Ask all threads to end."""
        for informer in self._informers.values():
            informer.stop()

    def close(self) -> None:
        """Wait until all threads have ended. The caller interrupts the API before this, and closes it after."""
        for informer in self._informers.values():
            informer.close()


def without_managed_fields(obj: Object) -> Object:
    """An object without ``managedFields``, which is half of its size."""
    with suppress(KeyError):
        del obj["metadata"]["managedFields"]
    return obj


def _key(obj: Object) -> Key:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _owner(obj: Object) -> OwnerKey:
    labels: dict[str, str] = obj["metadata"].get("labels") or {}
    return OwnerKey(obj["metadata"].get("namespace", ""), labels.get(UID, ""))
