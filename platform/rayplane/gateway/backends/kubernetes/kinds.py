"""The kinds of objects that this backend reads or writes, where each is kept, and how one is written. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

Object = dict[str, Any]
"""A Kubernetes object as JSON has it."""

MANAGER = "rayplane"
"""The one field manager of everything that the platform applies."""

MANAGED_BY = "app.kubernetes.io/managed-by"
UID = "rayplane.dev/uid"
"""Label: the uid of the platform's own object (cluster or team) that this one belongs to."""
TEAM = "rayplane.dev/team"
CLUSTER = "rayplane.dev/cluster"
SELECTOR = f"{MANAGED_BY}={MANAGER}"
"""Label selector of everything that is the platform's."""


def instant(text: str) -> datetime:
    """A time as Kubernetes writes it."""
    return datetime.fromisoformat(text).astimezone(UTC)


def is_gpu(resource: str) -> bool:
    """Whether KubeRay counts a resource among a node's GPUs, whoever makes them."""
    return resource.endswith("gpu") or resource.startswith("nvidia.com/mig-")


def as_yaml(value: Any) -> str:
    """A value of JSON as YAML that Go reads, which is JSON too.

    Escapes for all but ASCII, as its reader takes no control character; none for what only a pair of escapes could
    say, as its scanner takes no half of one. The API server reads whatever is applied so, the operator texts in it.
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if " " <= c <= "~" or c > "\uffff" else f"\\u{ord(c):04x}" for c in text)


@dataclass(frozen=True)
class Kind:
    """A kind of object. Its ``str`` is what RBAC calls it: ``rayclusters.ray.io``."""

    group: str
    version: str
    name: str
    plural: str
    namespaced: bool = True

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def api_version(self) -> str:
        """As a manifest names it."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None) -> str:
        """The URL's path of one object, or of the collection, in one namespace or in all."""
        parts = [f"apis/{self.group}" if self.group else "api", self.version]
        parts += ["namespaces", namespace] if self.namespaced and namespace else []
        return "/" + "/".join([*parts, self.plural, *([name] if name else [])])


NAMESPACE = Kind("", "v1", "Namespace", "namespaces", namespaced=False)
VOLUME = Kind("", "v1", "PersistentVolume", "persistentvolumes", namespaced=False)
DEFINITION = Kind(
    "apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", namespaced=False
)
POD = Kind("", "v1", "Pod", "pods")
SECRET = Kind("", "v1", "Secret", "secrets")
EVENT = Kind("", "v1", "Event", "events")
QUOTA = Kind("", "v1", "ResourceQuota", "resourcequotas")
LIMITS = Kind("", "v1", "LimitRange", "limitranges")
ACCOUNT = Kind("", "v1", "ServiceAccount", "serviceaccounts")
CLAIM = Kind("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims")
NETWORK_POLICY = Kind("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies")
ROLE_BINDING = Kind("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings")
LEASE = Kind("coordination.k8s.io", "v1", "Lease", "leases")
WORKLOAD = Kind("kueue.x-k8s.io", "v1beta1", "Workload", "workloads")
RAYCLUSTER = Kind("ray.io", "v1", "RayCluster", "rayclusters")
RAYJOB = Kind("ray.io", "v1", "RayJob", "rayjobs")
RAYSERVICE = Kind("ray.io", "v1", "RayService", "rayservices")
