"""Watch RayClusters at the API server independently of the gateway, and play the operator that makes their pods."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rayplane.errors import Unavailable
from rayplane.gateway.backends.kubernetes.api import KubeApi
from rayplane.gateway.backends.kubernetes.kinds import POD, RAYCLUSTER, Object

Key = tuple[str, str]
"""Namespace and name."""

_NEVER = (0, 0.0)


class Watching:
    """A watch that records every RayCluster's newest generation and the time of its arrival."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api
        self._changed = threading.Condition()
        self._newest: dict[Key, tuple[int, float]] = {}
        self._error: BaseException | None = None
        self._listeners: list[Callable[[Object], None]] = []

    def subscribe(self, listener: Callable[[Object], None]) -> None:
        """Call ``listener`` with every RayCluster that is new from now on."""
        self._listeners.append(listener)

    def generations(self) -> dict[Key, int]:
        """The newest generation of each RayCluster."""
        with self._changed:
            return {key: generation for key, (generation, _) in self._newest.items()}

    def wait_for(self, keys: Collection[Key], seconds: float) -> float:
        """Wait until all of them exist; returns the monotonic time at which the last one arrived."""
        return self.wait_beyond(dict.fromkeys(keys, 0), seconds)

    def wait_beyond(self, before: Mapping[Key, int], seconds: float) -> float:
        """Wait until each has a later generation; returns the monotonic time at which the last one arrived.

        Raises TimeoutError, or Unavailable if the watch has ended.
        """

        def lacking() -> list[Key]:
            return [key for key, generation in before.items() if self._newest.get(key, _NEVER)[0] <= generation]

        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or not lacking(), seconds)
            if self._error is not None:
                raise Unavailable(f"The watch of RayClusters ended: {self._error}") from self._error
            if left := lacking():
                raise TimeoutError(f"{len(left)} of {len(before)} RayClusters are not as wanted in {seconds:.0f} s")
            return max(self._newest[key][1] for key in before)

    def run(self) -> None:
        """Follow the API server until the connection is closed."""
        listed = self._api.list(RAYCLUSTER)
        for obj in listed.items:
            self._take(obj)
        version = listed.resource_version
        try:
            while True:
                for change in self._api.watch(RAYCLUSTER, version):
                    version = change.object["metadata"]["resourceVersion"]
                    if change.type in ("ADDED", "MODIFIED"):
                        self._take(change.object)
        except Exception as exc:  # noqa: BLE001  raised in the thread that waits
            with self._changed:
                self._error = exc
                self._changed.notify_all()

    def _take(self, obj: Object) -> None:
        key, generation = key_of(obj), obj["metadata"]["generation"]
        with self._changed:
            new = key not in self._newest
            if new or self._newest[key][0] != generation:
                self._newest[key] = (generation, time.monotonic())
                self._changed.notify_all()
        if new:
            for listener in self._listeners:
                listener(obj)


@contextmanager
def watching(kubeconfig: Path) -> Iterator[Watching]:
    """Watch with the rights of a kubeconfig until the block's end."""
    api = KubeApi(kubeconfig, timeout=60.0)
    watch = Watching(api)
    thread = threading.Thread(target=watch.run, name="watching", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        api.close()
        thread.join(10.0)


@contextmanager
def played_operator(watch: Watching, kubeconfig: Path, node: str) -> Iterator[None]:
    """Play the operator: give every new RayCluster a head pod on a fake node, which kwok reports as running."""
    api = KubeApi(kubeconfig, timeout=60.0)
    with ThreadPoolExecutor(4, thread_name_prefix="player") as pool:
        watch.subscribe(lambda cluster: pool.submit(api.apply, POD, head_of(cluster, node)).add_done_callback(_raised))
        yield
    api.close()


def head_of(cluster: Object, node: str) -> Object:
    """The head pod of a RayCluster, from its template and already assigned to ``node``."""
    meta, template = cluster["metadata"], cluster["spec"]["headGroupSpec"]["template"]
    labels = {"ray.io/cluster": meta["name"], "ray.io/node-type": "head", "ray.io/group": "headgroup"}
    spec: dict[str, Any] = json.loads(json.dumps(template["spec"]))
    owner = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "name": meta["name"], "uid": meta["uid"]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{meta['name']}-head",
            "namespace": meta["namespace"],
            "labels": {**template["metadata"]["labels"], **labels},
            "ownerReferences": [{**owner, "controller": True}],
        },
        "spec": {**spec, "nodeName": node},
    }


def key_of(obj: Object) -> Key:
    """(namespace, name) of an object."""
    return obj["metadata"]["namespace"], obj["metadata"]["name"]


def _raised(future: Any) -> None:
    error = future.exception()
    if error is not None:
        print(f"bench: a head pod could not be made: {error}", flush=True)
