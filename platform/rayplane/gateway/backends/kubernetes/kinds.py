"""The kinds of objects that this backend reads or writes, their URLs, labels and YAML. Pure."""

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
"""Label: uid of the platform's own object (team, cluster, job or service) that this object belongs to."""
TEAM = "rayplane.dev/team"
CLUSTER = "rayplane.dev/cluster"
SELECTOR = f"{MANAGED_BY}={MANAGER}"
"""Label selector of all of the platform's objects."""


def instant(text: str) -> datetime:
    """Parse a time as Kubernetes writes it."""
    return datetime.fromisoformat(text).astimezone(UTC)


def is_gpu(resource: str) -> bool:
    """True if KubeRay counts the resource as a GPU, of any vendor."""
    return resource.endswith("gpu") or resource.startswith("nvidia.com/mig-")


def as_yaml(value: Any) -> str:
    """A JSON value as JSON that Go's YAML parser reads too.

    Characters outside of ASCII are escaped, since the parser takes no control character; those beyond U+FFFF are not,
    since it takes no surrogate pair. The API server parses applied manifests so, and the operator the texts in them.
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if " " <= c <= "~" or c > "\uffff" else f"\\u{ord(c):04x}" for c in text)


@dataclass(frozen=True)
class Kind:
    """A kind of object. Its ``str`` is RBAC's name for it: ``rayclusters.ray.io``."""

    group: str
    version: str
    name: str
    plural: str
    namespaced: bool = True

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def api_version(self) -> str:
        """The ``apiVersion`` of a manifest."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None) -> str:
        """URL path of one object, or of the collection in one namespace or in all."""
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
