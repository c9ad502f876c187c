"""Check an object against its CustomResourceDefinition, and against the rules of its operator and of Kueue. Pure.

``check`` takes one object and returns findings, ``preflight`` takes all objects of a cluster and returns sentences.
Pass the same dict of a CRD each time: its compiled schema is cached by the identity of the dict.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayplane.gateway.backends.kubernetes.preflight import (
    cel,
    kueue,
    metadata,
    raycluster,
    raycronjob,
    rayjob,
    rayservice,
    schema,
)
from rayplane.gateway.backends.kubernetes.preflight.finding import Finding, nearest
from rayplane.gateway.backends.kubernetes.preflight.schema import ABSENT, BLOCKING, Node

_MOST_CRDS = 16
"""The most CRDs that are kept compiled: those of one Kubernetes cluster, with room for their next versions."""

Rules = Callable[[dict[str, Any], dict[str, Any] | None], Iterator[Finding]]
"""(object as the API server would store it, present object or None) -> what its operator would refuse."""

_RULES: dict[tuple[str, str], tuple[Rules, ...]] = {
    ("ray.io", "RayCluster"): (raycluster.wrong, kueue.wrong),
    ("ray.io", "RayJob"): (rayjob.wrong, kueue.wrong),
    ("ray.io", "RayService"): (rayservice.wrong, kueue.wrong),
    ("ray.io", "RayCronJob"): (raycronjob.wrong,),
}


def check(manifest: dict[str, Any], crd: dict[str, Any], *, old: dict[str, Any] | None = None) -> list[Finding]:
    """All findings about an object, the most fundamental first; empty if it may be sent.

    ``crd`` is the CustomResourceDefinition of its kind, as the API server returns it. ``old`` is the present object, if
    there is one: then the rules on forbidden changes apply too. Unknown fields are findings: the API server would drop
    them silently.
    """
    kind = compiled(crd)
    group, _, version = str(manifest.get("apiVersion", "")).rpartition("/")
    if manifest.get("kind") != kind.name or group != kind.group:
        message = f"is a {manifest.get('kind')} of {manifest.get('apiVersion')}, not a {kind.name} of {kind.group}"
        return [Finding("kind", "schema.kind", message, "Check it against the definition of its own kind.")]
    node = kind.versions.get(version)
    if node is None:
        known = list(kind.versions)
        message = f"there is no version '{version}' of {kind.name} in this Kubernetes cluster"
        return [Finding("apiVersion", "schema.version", message, nearest(version, known))]
    findings = [*metadata.wrong(manifest.get("metadata"), namespaced=kind.namespaced), *schema.unknown(manifest, node)]
    stored = schema.filled(manifest, node)
    before = None if old is None else schema.filled(old, node)
    findings += schema.wrong(stored, node, old=ABSENT if before is None else before)
    findings += schema.twice(stored, node)
    if not any(finding.rule in BLOCKING or finding.rule == "metadata.type" for finding in findings):
        findings += cel.broken(stored, node, old=ABSENT if before is None else before)
        wrong_paths = {finding.path for finding in findings if finding.rule != "schema.unknown-field"}
        for rules in _RULES.get((group, kind.name), ()):
            findings += (finding for finding in rules(stored, before) if not _is_covered(finding.path, wrong_paths))
    return list(dict.fromkeys(findings))


def _is_covered(path: str, wrong_paths: set[str]) -> bool:
    """True if the schema already has a finding about this value or about an object or list around it."""
    return any(path == each or (each and path.startswith((f"{each}.", f"{each}["))) for each in wrong_paths)


def preflight(
    manifests: Sequence[dict[str, Any]],
    crds: Mapping[str, dict[str, Any]],
    *,
    old: Mapping[str, dict[str, Any]] | None = None,
) -> list[str]:
    """All findings about the objects of one cluster, as sentences with remedies; empty if they may be sent.

    ``crds`` has the definitions by kind (``RayCluster``), ``old`` the present objects, by kind too. An object of
    KubeRay's API group whose kind is not in ``crds`` is a finding: its definition is not installed. Objects of
    Kubernetes' own kinds pass unchecked: the API server checks them in full.
    """
    sentences = []
    for manifest in manifests:
        kind = str(manifest.get("kind"))
        name = (manifest.get("metadata") or {}).get("name", "")
        if kind in crds:
            findings = check(manifest, crds[kind], old=(old or {}).get(kind))
            sentences += [f"{kind} '{name}': {finding}" for finding in findings]
        elif str(manifest.get("apiVersion", "")).startswith("ray.io/"):
            sentences.append(
                f"{kind} '{name}': this Kubernetes cluster knows no such kind. Install KubeRay's definitions, or its "
                "operator, which brings them."
            )
    return sentences


@dataclass(frozen=True)
class Kind:
    """A compiled CustomResourceDefinition."""

    name: str
    group: str
    namespaced: bool
    versions: dict[str, Node]
    """Name of each served version -> its schema."""


_cache: OrderedDict[int, tuple[dict[str, Any], Kind]] = OrderedDict()
_cache_lock = threading.Lock()


def compiled(crd: dict[str, Any]) -> Kind:
    """A definition compiled, once for each dict. The cache keeps the dict too, so that no other one gets its id."""
    with _cache_lock:
        entry = _cache.get(id(crd))
        if entry is None or entry[0] is not crd:
            entry = (crd, _compile(crd))
            _cache[id(crd)] = entry
        _cache.move_to_end(id(crd))
        while len(_cache) > _MOST_CRDS:
            _cache.popitem(last=False)
        return entry[1]


def _compile(crd: dict[str, Any]) -> Kind:
    spec = crd["spec"]
    versions = {
        version["name"]: Node((version.get("schema") or {}).get("openAPIV3Schema") or {"type": "object"})
        for version in spec["versions"]
        if version.get("served", True)
    }
    return Kind(spec["names"]["kind"], spec["group"], spec.get("scope") == "Namespaced", versions)
