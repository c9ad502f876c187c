"""Everything that is wrong with an object for its CustomResourceDefinition, and for what acts on it. Pure.

``check`` is for one object, ``preflight`` for the objects that a cluster is made of, said in sentences. Keep handing in
one and the same dict of a CRD: what is compiled of it is kept by that.
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
"""How many CRDs are kept compiled: those of one cluster, with room for their next versions."""

Rules = Callable[[dict[str, Any], dict[str, Any] | None], Iterator[Finding]]
"""Object as it is stored, object as it is now or None -> what its operator would not take."""

_RULES: dict[tuple[str, str], tuple[Rules, ...]] = {
    ("ray.io", "RayCluster"): (raycluster.wrong, kueue.wrong),
    ("ray.io", "RayJob"): (rayjob.wrong, kueue.wrong),
    ("ray.io", "RayService"): (rayservice.wrong, kueue.wrong),
    ("ray.io", "RayCronJob"): (raycronjob.wrong,),
}


def check(manifest: dict[str, Any], crd: dict[str, Any], *, old: dict[str, Any] | None = None) -> list[Finding]:
    """Everything that is wrong with an object, its most telling findings first; empty if it may be sent.

    ``crd`` is the CustomResourceDefinition of its kind, as the API server gives it. ``old`` is the object as it is
    there now, if it is: then what may not change is asked as well. Unknown fields are findings: the API server would
    drop them in silence.
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
    found = [*metadata.wrong(manifest.get("metadata"), namespaced=kind.namespaced), *schema.unknown(manifest, node)]
    stored = schema.filled(manifest, node)
    before = None if old is None else schema.filled(old, node)
    found += schema.wrong(stored, node, old=ABSENT if before is None else before)
    found += schema.twice(stored, node)
    if not any(finding.rule in BLOCKING or finding.rule == "metadata.type" for finding in found):
        found += cel.broken(stored, node, old=ABSENT if before is None else before)
        said = {finding.path for finding in found if finding.rule != "schema.unknown-field"}
        for rules in _RULES.get((group, kind.name), ()):
            found += (finding for finding in rules(stored, before) if not _is_said(finding.path, said))
    return list(dict.fromkeys(found))


def _is_said(path: str, said: set[str]) -> bool:
    """Whether the schema says already that a value, or what it stands in, is wrong: once is enough."""
    return any(path == each or (each and path.startswith((f"{each}.", f"{each}["))) for each in said)


def preflight(
    manifests: Sequence[dict[str, Any]],
    crds: Mapping[str, dict[str, Any]],
    *,
    old: Mapping[str, dict[str, Any]] | None = None,
) -> list[str]:
    """Everything that is wrong with the objects of one cluster, each a sentence with its remedy; empty if they may go.

    ``crds`` holds the definitions by kind (``RayCluster``), ``old`` what is there now, by kind too. An object of a kind
    that is not in ``crds``, and whose API group is KubeRay's, is a finding: its definition is not installed. Objects of
    Kubernetes' own kinds are let pass: the API server checks them whole.
    """
    said = []
    for manifest in manifests:
        kind = str(manifest.get("kind"))
        name = (manifest.get("metadata") or {}).get("name", "")
        if kind in crds:
            findings = check(manifest, crds[kind], old=(old or {}).get(kind))
            said += [f"{kind} '{name}': {finding}" for finding in findings]
        elif str(manifest.get("apiVersion", "")).startswith("ray.io/"):
            said.append(
                f"{kind} '{name}': this Kubernetes cluster knows no such kind. Install KubeRay's definitions, or its "
                "operator, which brings them."
            )
    return said


@dataclass(frozen=True)
class Kind:
    """A CustomResourceDefinition, ready to check objects with."""

    name: str
    group: str
    namespaced: bool
    versions: dict[str, Node]
    """Name of each version that is served -> its schema."""


_kept: OrderedDict[int, tuple[dict[str, Any], Kind]] = OrderedDict()
_keeping = threading.Lock()


def compiled(crd: dict[str, Any]) -> Kind:
    """A definition compiled, once for each dict. The dict is kept too, so that no other one gets its id."""
    with _keeping:
        kept = _kept.get(id(crd))
        if kept is None or kept[0] is not crd:
            kept = (crd, _compile(crd))
            _kept[id(crd)] = kept
        _kept.move_to_end(id(crd))
        while len(_kept) > _MOST_CRDS:
            _kept.popitem(last=False)
        return kept[1]


def _compile(crd: dict[str, Any]) -> Kind:
    spec = crd["spec"]
    versions = {
        version["name"]: Node((version.get("schema") or {}).get("openAPIV3Schema") or {"type": "object"})
        for version in spec["versions"]
        if version.get("served", True)
    }
    return Kind(spec["names"]["kind"], spec["group"], spec.get("scope") == "Namespaced", versions)
