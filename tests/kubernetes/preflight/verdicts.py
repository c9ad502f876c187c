"""Verdicts of the real API server and the real operator on an object: the other side of the differential table."""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rayplane.gateway.backends.kubernetes.kinds import as_yaml
from tests.kubernetes.bed.api import Api, ApiError, Object

_REFUSED = re.compile(r"Invalid.*(Spec|Metadata|Status)$|FailedToCreate.*|.*ValidationFailed$")
"""Reasons of the operator's Warning events that mean that nothing will come of the object as it is."""


_KINDS = ("RayService", "RayJob", "RayCluster")


@dataclass(frozen=True)
class Verdict:
    """One verdict and who gave it. ``refused`` is None if neither gave one in time."""

    refused: bool | None
    by: str
    """api: the request is refused. operator: the object is taken and then refused. pods: no pod can be made of it."""
    said: str = ""


class Server:
    """A namespace of a real API server with a real operator, to ask."""

    def __init__(self, api: Api, namespace: str) -> None:
        self.api = api
        self.namespace = namespace
        self._made: list[tuple[str, str, str]] = []

    def prepare(self, manifests: list[Object]) -> None:
        """Make what templates name and admission looks for before it takes a pod: it is not the specs' fault."""
        for kind, group, key, body in (
            ("ServiceAccount", "v1", "serviceAccountName", {}),
            ("PriorityClass", "scheduling.k8s.io/v1", "priorityClassName", {"value": 1}),
            ("RuntimeClass", "node.k8s.io/v1", "runtimeClassName", {"handler": "x"}),
        ):
            for name in sorted({value for each in manifests for value in _values(each, key)}):
                if re.fullmatch(r"[a-z0-9.-]+", name) and not name.startswith("system-"):
                    metadata = {"name": name} | ({"namespace": self.namespace} if kind == "ServiceAccount" else {})
                    self.api.apply({"apiVersion": group, "kind": kind, "metadata": metadata, **body})
                    self._made.append((group, kind, name))

    def ask(self, manifest: Object) -> tuple[Verdict, Verdict]:
        """The API server's verdicts on applying and on creating it, by dry runs that refuse unknown fields."""
        obj = self._placed(manifest)
        name = obj["metadata"].get("name", "")
        collection = self.api.path(obj["apiVersion"], obj["kind"], namespace=self.namespace)
        strict = {"dryRun": "All", "fieldValidation": "Strict"}
        applied = self._try(
            "PATCH",
            f"{collection}/{name}",
            params={**strict, "fieldManager": "table", "force": "true"},
            headers={"Content-Type": "application/apply-patch+yaml"},
            content=as_yaml(obj).encode(),  # as the gateway writes it
        )
        return applied, self._try("POST", collection, params=strict, json=obj)

    def ask_change(self, old: Object, manifest: Object) -> Verdict:
        """The API server's verdict on a change of a present object, applied by the same manager."""
        self.send(old)
        return self.ask(manifest)[0]

    def send(self, manifest: Object) -> Object:
        """Apply an object for good; the operator sees it."""
        return self.api.apply(self._placed(manifest), manager="table")

    def settle(self, sent: dict[str, Object], *, seconds: float) -> dict[str, Verdict]:
        """The operator's verdict on objects that were sent, by the names of their cases.

        It waits until none has come for that many seconds. An object is deleted once it is judged.
        """
        left, verdicts = dict(sent), {}
        latest = time.monotonic()
        while left and time.monotonic() < latest + seconds:
            view = _View(self.api, self.namespace)
            for case, obj in list(left.items()):
                verdict = view.verdict(obj)
                if verdict is not None:
                    verdicts[case] = verdict
                    del left[case]
                    latest = time.monotonic()
                    self._release(obj)
            time.sleep(0.5)
        return verdicts | {case: Verdict(None, "operator", "said nothing") for case in left}

    def clear(self, *, seconds: float) -> None:
        """Delete what was made, and see it gone, so that the operator is idle for the next caller.

        Finalizers go by hand: what they wait for (a Redis, a Ray) is not there.
        """
        for group, kind, name in self._made:
            self.api.delete(group, kind, name, self.namespace if kind == "ServiceAccount" else None)
        deadline = time.monotonic() + seconds
        while left := self._left():
            if time.monotonic() > deadline:
                raise TimeoutError(f"Not gone after {seconds:.0f} s: {left}")
            time.sleep(1.0)

    def _left(self) -> list[str]:
        left = [(kind, each) for kind in _KINDS for each in self.api.list("ray.io/v1", kind, self.namespace)]
        for kind, each in left:
            if not each["metadata"].get("deletionTimestamp") or each["metadata"].get("finalizers"):
                self._release({"kind": kind, **each})
        return [each["metadata"]["name"] for _, each in left] + [
            each["metadata"]["name"] for each in self.api.list("v1", "Pod", self.namespace)
        ]

    def _release(self, obj: Object) -> None:
        """Delete an object, whatever its finalizers wait for."""
        kind, name = obj["kind"], obj["metadata"]["name"]
        self.api.delete("ray.io/v1", kind, name, self.namespace)
        with suppress(ApiError):  # it is gone already
            self.api.patch("ray.io/v1", kind, name, {"metadata": {"finalizers": None}}, self.namespace)

    def _placed(self, manifest: Object) -> Object:
        obj = copy.deepcopy(manifest)
        obj["metadata"]["namespace"] = self.namespace
        return obj

    def _try(self, method: str, path: str, **options: Any) -> Verdict:
        try:
            self.api.request(method, path, **options)
        except ApiError as error:
            if error.status >= 500 and "typed patch" not in str(error):
                raise
            return Verdict(True, "api", str(error)[:600])
        return Verdict(False, "api")


class _View:
    """All that the operator did in a namespace so far, read once."""

    def __init__(self, api: Api, namespace: str) -> None:
        self.objects = {
            (kind, each["metadata"]["name"]): each for kind in _KINDS for each in api.list("ray.io/v1", kind, namespace)
        }
        self.warnings: dict[str, list[tuple[str, str]]] = {}
        for event in api.list("v1", "Event", namespace):
            if "already exists" in event.get("message", ""):
                continue  # the operator acted on a stale cache, and tries again
            if event.get("type") == "Warning" and _REFUSED.fullmatch(event.get("reason", "")):
                said = (event["reason"], event.get("message", ""))
                self.warnings.setdefault(event["involvedObject"].get("uid", ""), []).append(said)
        self.pods: dict[tuple[str, str], int] = {}
        for pod in api.list("v1", "Pod", namespace):
            labels = pod["metadata"].get("labels") or {}
            key = (labels.get("ray.io/cluster", ""), labels.get("ray.io/node-type", ""))
            self.pods[key] = self.pods.get(key, 0) + 1

    def verdict(self, sent: Object) -> Verdict | None:
        """The operator's verdict on an object; None while there is none."""
        obj = self.objects.get((sent["kind"], sent["metadata"]["name"]))
        if obj is None:
            return None  # a cluster that a job or a service is about to make
        for reason, message in self.warnings.get(obj["metadata"]["uid"], []):
            return Verdict(True, "operator" if reason.startswith("Invalid") else "pods", f"{reason}: {message}"[:600])
        spec, status = obj.get("spec") or {}, obj.get("status") or {}
        if spec.get("managedBy") == "kueue.x-k8s.io/multikueue":
            return Verdict(False, "operator", "another controller's")
        of = {"RayCluster": self._cluster, "RayJob": self._job, "RayService": self._service}
        return of[obj["kind"]](obj, spec, status)

    def _cluster(self, obj: Object, spec: Object, status: Object) -> Verdict | None:
        if spec.get("suspend"):
            done = status.get("state") == "suspended"
            return Verdict(False, "operator", "suspended") if done else None
        name = obj["metadata"]["name"]
        if status.get("observedGeneration") != obj["metadata"]["generation"]:
            return None
        wanted = sum(_workers(group) for group in spec.get("workerGroupSpecs") or [])
        if self.pods.get((name, "head")) and (not wanted or self.pods.get((name, "worker"))):
            return Verdict(False, "pods", f"{wanted} workers wanted")
        return None

    def _job(self, obj: Object, spec: Object, status: Object) -> Verdict | None:
        state = status.get("jobDeploymentStatus")
        if state == "ValidationFailed" or status.get("reason") == "ValidationFailed":
            return Verdict(True, "operator", f"{state}: {status.get('message', '')}"[:600])
        if state in ("Suspended", "Suspending"):
            return Verdict(False, "operator", state)
        if spec.get("clusterSelector") and state:
            return Verdict(False, "operator", state)
        return self._child(status.get("rayClusterName"))

    def _service(self, obj: Object, spec: Object, status: Object) -> Verdict | None:
        del obj, spec
        for condition in status.get("conditions") or []:
            if condition.get("reason") == "ValidationFailed":
                return Verdict(True, "operator", f"ValidationFailed: {condition.get('message', '')}"[:600])
        pending = (status.get("pendingServiceStatus") or {}).get("rayClusterName")
        return self._child(pending or (status.get("activeServiceStatus") or {}).get("rayClusterName"))

    def _child(self, name: str | None) -> Verdict | None:
        child = self.objects.get(("RayCluster", name or ""))
        return self.verdict(child) if child is not None else None


def _workers(group: Object) -> int:
    if group.get("suspend"):
        return 0
    replicas = max(int(group.get("replicas") or 0), int(group.get("minReplicas") or 0))
    return min(replicas, int(group.get("maxReplicas", replicas))) * int(group.get("numOfHosts", 1))


def _values(obj: Any, key: str) -> Iterator[str]:
    if isinstance(obj, dict):
        for name, value in obj.items():
            if name == key and isinstance(value, str) and value:
                yield value
            yield from _values(value, key)
    elif isinstance(obj, list):
        for value in obj:
            yield from _values(value, key)
