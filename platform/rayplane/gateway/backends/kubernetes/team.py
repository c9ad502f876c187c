"""Translate a team into Kubernetes objects: namespace, quota, limits, accounts, rights, network, storage. Pure."""

from __future__ import annotations

import ipaddress
import math
from typing import NamedTuple

from rayplane.gateway.backends.base import TeamRef
from rayplane.gateway.backends.kubernetes import compare, pods
from rayplane.gateway.backends.kubernetes.kinds import (
    ACCOUNT,
    CLAIM,
    LIMITS,
    MANAGED_BY,
    MANAGER,
    NAMESPACE,
    NETWORK_POLICY,
    QUOTA,
    ROLE_BINDING,
    TEAM,
    UID,
    VOLUME,
    Kind,
    Object,
)
from rayplane.gateway.backends.kubernetes.raycluster import ASKED_HASH
from rayplane.gateway.backends.kubernetes.settings import KubernetesSettings
from rayplane.nouns.team import TeamSpec

NAME = "rayplane"
"""Name of a team's quota and limits."""
GATEWAY_ROLE, MEMBER_ROLE = "rayplane-gateway-team", "rayplane-team-member"
"""Cluster roles of deploy/kubernetes/gateway-role.yaml, which a team's namespace binds."""
GATEWAY_BINDING, MEMBER_BINDING = "rayplane-gateway", "rayplane-members"

_UNBOUND = "1Pi"
"""Size of a claim on a shared folder: Kubernetes demands one, and nothing enforces it."""
_DEFAULT_MEMORY = 2**30


class Wanted(NamedTuple):
    """One of a team's objects."""

    kind: Kind
    manifest: Object


def place(team: TeamRef, spec: TeamSpec, settings: KubernetesSettings, root: str) -> list[Wanted]:
    """All objects of a team, in the order in which to make them. ``root`` is the URI of the storage root."""
    namespace = settings.namespace(team.name)
    made = [
        (NAMESPACE, namespace, _namespace()),
        # What follows is made by the right that this gives.
        (ROLE_BINDING, GATEWAY_BINDING, _gateway_binding(settings)),
        (QUOTA, NAME, _quota(spec, settings)),
        (LIMITS, NAME, _limits(spec)),
        (ACCOUNT, pods.TEAM_ACCOUNT, _account(settings)),
        (ROLE_BINDING, MEMBER_BINDING, _member_binding(spec, settings)),
        (NETWORK_POLICY, "rayplane-deny", _deny()),
        (NETWORK_POLICY, "rayplane-ray", _openings(settings)),
    ]
    if pods.folder(root) is not None and settings.storage_volume is not None:
        made.append((VOLUME, volume_name(namespace), _volume(namespace, settings.volume_of(team.name), settings)))
        made.append((CLAIM, settings.storage_claim, _claim(namespace)))
    return [_wanted(kind, name, body, team, namespace) for kind, name, body in made]


def volume_name(namespace: str) -> str:
    """Name of a team's PersistentVolume, which is outside of its namespace."""
    return f"{namespace}-storage"


def overhead(spec: TeamSpec, settings: KubernetesSettings) -> tuple[float, float]:
    """(cores, bytes) for the autoscalers of a team's clusters, beyond the quota that is for their Ray nodes."""
    smallest_cpu = min(size.cpu for size in spec.sizes.values())
    smallest_memory = min(size.memory for size in spec.sizes.values())
    most = [
        float(spec.quota.clusters) if spec.quota.clusters is not None else math.inf,
        spec.quota.cpu / smallest_cpu if spec.quota.cpu is not None and smallest_cpu else math.inf,
        spec.quota.memory / smallest_memory if spec.quota.memory is not None and smallest_memory else math.inf,
    ]
    clusters = min(most)
    if math.isinf(clusters):
        return 0.0, 0.0  # neither cores nor memory are limited, so nothing is added to them
    return math.ceil(clusters) * settings.autoscaler_cpu, float(math.ceil(clusters) * settings.autoscaler_memory)


def _wanted(kind: Kind, name: str, body: Object, team: TeamRef, namespace: str) -> Wanted:
    meta: Object = {"name": name, **({"namespace": namespace} if kind.namespaced else {})}
    labels = {MANAGED_BY: MANAGER, TEAM: team.name, UID: team.uid}
    own_metadata = body.pop("metadata", {})
    manifest = {
        "apiVersion": kind.api_version,
        "kind": kind.name,
        "metadata": {**meta, "labels": {**labels, **own_metadata.get("labels", {})}},
        **body,
    }
    # A limit that was taken back is not missing from what is there: only the hash tells.
    manifest["metadata"]["annotations"] = {ASKED_HASH: compare.digest(manifest)}
    return Wanted(kind, manifest)


def _namespace() -> Object:
    level = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")}
    return {"metadata": {"labels": level}}


def _quota(spec: TeamSpec, settings: KubernetesSettings) -> Object:
    cpu, memory = overhead(spec, settings)
    hard: dict[str, str] = {}
    if spec.quota.cpu is not None:
        hard["requests.cpu"] = pods.cores(spec.quota.cpu + cpu)
    if spec.quota.memory is not None:
        hard["requests.memory"] = pods.bytes_(spec.quota.memory + memory)
    if spec.quota.gpu is not None:
        hard[f"requests.{settings.gpu_resource}"] = str(math.floor(spec.quota.gpu))
    return {"spec": {"hard": hard}}


def _limits(spec: TeamSpec) -> Object:
    """Default requests of a container that names none; no container has more memory than the largest size."""
    largest = max(size.memory for size in spec.sizes.values())
    memory = pods.bytes_(min(largest, _DEFAULT_MEMORY))
    return {
        "spec": {
            "limits": [
                {
                    "type": "Container",
                    "default": {"memory": memory},
                    "defaultRequest": {"cpu": "100m", "memory": memory},
                    "max": {"memory": pods.bytes_(max(largest, _DEFAULT_MEMORY))},
                }
            ]
        }
    }


def _account(settings: KubernetesSettings) -> Object:
    secrets = [{"name": settings.image_pull_secret}] if settings.image_pull_secret else []
    return {"automountServiceAccountToken": False, "imagePullSecrets": secrets}


def _gateway_binding(settings: KubernetesSettings) -> Object:
    gateway = {
        "kind": "ServiceAccount",
        "name": settings.gateway_service_account,
        "namespace": settings.gateway_namespace,
    }
    return {"roleRef": _role(GATEWAY_ROLE), "subjects": [gateway]}


def _member_binding(spec: TeamSpec, settings: KubernetesSettings) -> Object:
    members = [
        {"kind": "User", "apiGroup": ROLE_BINDING.group, "name": f"{settings.user_prefix}{name}"}
        for name in sorted(spec.members)
    ]
    return {"roleRef": _role(MEMBER_ROLE), "subjects": members}


def _role(name: str) -> Object:
    return {"apiGroup": ROLE_BINDING.group, "kind": "ClusterRole", "name": name}


def _deny() -> Object:
    return {"spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}}


def _openings(settings: KubernetesSettings) -> Object:
    """Traffic that Ray needs: with its team's pods, from the gateway, the operator and Prometheus, and out to CIDRs."""
    own: Object = {"podSelector": {}}
    doors = [pods.DASHBOARD, pods.CLIENT, pods.SERVE, pods.METRICS, pods.AGENT]
    ingress: list[Object] = [
        {"from": [own]},
        {"from": [_namespace_named(settings.gateway_namespace)], "ports": _tcp(*doors)},
        {"from": [_namespace_named(settings.operator_namespace)], "ports": _tcp(pods.DASHBOARD, pods.SERVE)},
    ]
    if settings.monitoring_namespace:
        ingress.append({"from": [_namespace_named(settings.monitoring_namespace)], "ports": _tcp(pods.METRICS)})
    if settings.ingress_namespace:
        ingress.append({"from": [_namespace_named(settings.ingress_namespace)], "ports": _tcp(pods.SERVE)})
    dns = [{"protocol": protocol, "port": port} for port in settings.dns_ports for protocol in ("UDP", "TCP")]
    on_the_node = [{"ipBlock": {"cidr": cidr}} for cidr in settings.dns_addresses]
    api_server = [{"ipBlock": {"cidr": cidr}} for cidr in settings.api_server]
    egress: list[Object] = [
        {"to": [own]},
        {"to": [_namespace_named(settings.dns_namespace), *on_the_node], "ports": dns},
        *([{"to": api_server, "ports": _tcp(443, 6443)}] if api_server else []),
        {"to": [_namespace_named(settings.gateway_namespace)]},
        *({"to": [{"ipBlock": _block(cidr, settings.egress_except)}]} for cidr in settings.egress),
    ]
    return {"spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": ingress, "egress": egress}}


def _namespace_named(name: str) -> Object:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


def _tcp(*ports: int) -> list[Object]:
    return [{"protocol": "TCP", "port": port} for port in ports]


def _block(cidr: str, but: list[str]) -> Object:
    whole = ipaddress.ip_network(cidr)
    inside = [
        part
        for part in but
        if (cut := ipaddress.ip_network(part)).version == whole.version
        and int(whole.network_address) <= int(cut.network_address)
        and int(cut.broadcast_address) <= int(whole.broadcast_address)
        and cut != whole
    ]
    return {"cidr": cidr, **({"except": inside} if inside else {})}


def _volume(namespace: str, source: Object, settings: KubernetesSettings) -> Object:
    return {
        "spec": {
            "capacity": {"storage": _UNBOUND},
            "accessModes": ["ReadWriteMany"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "",
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": namespace,
                "name": settings.storage_claim,
            },
            **source,
        }
    }


def _claim(namespace: str) -> Object:
    return {
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "storageClassName": "",
            "volumeName": volume_name(namespace),
            "resources": {"requests": {"storage": _UNBOUND}},
        }
    }
