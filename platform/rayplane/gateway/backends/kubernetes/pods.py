"""Templates of Ray's pods: image, resources, secrets, storage, and the Pod Security profile `restricted`. Pure.

A RayCluster, a RayJob and a RayService embed the same templates. KubeRay adds the command, probes, an init container
that waits for the head (with the Ray container's security context) and the autoscaler beside the head.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from rayplane.gateway.backends.base import RAY_ENVIRONMENT, LaunchContext
from rayplane.gateway.backends.kubernetes.kinds import CLUSTER, MANAGED_BY, MANAGER, TEAM, UID, Object
from rayplane.gateway.backends.kubernetes.settings import KubernetesSettings
from rayplane.nouns.team import Size

CLIENT, DASHBOARD, SERVE, METRICS = 10001, 8265, 8000, 8080
AGENT = 52365
"""Ray's default port of the agent on each node, which serves the node's log files."""
GCS = 6379
PORTS = {"gcs-server": GCS, "client": CLIENT, "dashboard": DASHBOARD, "serve": SERVE, "metrics": METRICS}
"""The head's ports. A RayService needs one that is named ``serve``."""

HEAD, WORKER, AUTOSCALER = "ray-head", "ray-worker", "autoscaler"
"""Names of containers; KubeRay adds the autoscaler."""

SECRETS = "/var/run/secrets/rayplane"
AUTH_TOKEN = "auth_token"  # noqa: S105  the key's name
"""Key in a cluster's Secret from which KubeRay reads Ray's own token."""

TEAM_ACCOUNT = "rayplane-team"
"""Service account of a team's pods, without any rights."""

_ACCOUNT_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"
_IDENTITY = "autoscaler-identity"


@dataclass(frozen=True)
class Owner:
    """The owner of pods: a cluster, or a job or a service with nodes of its own."""

    team: str
    name: str
    uid: str
    """Uid of the platform's object."""
    secret: str
    """Name of its Secret."""

    @property
    def labels(self) -> dict[str, str]:
        """Labels of every object of this owner."""
        return {MANAGED_BY: MANAGER, TEAM: self.team, CLUSTER: self.name, UID: self.uid}


def head(owner: Owner, launch: LaunchContext, settings: KubernetesSettings, root: str, *, autoscaled: bool) -> Object:
    """The head's pod template. If ``autoscaled``, it has the identity that the autoscaler's container alone mounts."""
    ports = [{"name": name, "containerPort": port, "protocol": "TCP"} for name, port in PORTS.items()]
    template = _template(HEAD, ports, owner, launch, settings, root)
    if autoscaled:
        template["spec"]["volumes"].append(_identity())  # KubeRay makes and sets the service account
    else:
        template["spec"]["serviceAccountName"] = TEAM_ACCOUNT
    return template


def worker(owner: Owner, launch: LaunchContext, settings: KubernetesSettings, root: str) -> Object:
    """A worker's pod template."""
    ports = [{"name": "metrics", "containerPort": METRICS, "protocol": "TCP"}]
    template = _template(WORKER, ports, owner, launch, settings, root)
    template["spec"]["serviceAccountName"] = TEAM_ACCOUNT
    return template


def autoscaler(settings: KubernetesSettings) -> Object:
    """KubeRay's ``autoscalerOptions``."""
    room = {"cpu": cores(settings.autoscaler_cpu), "memory": bytes_(settings.autoscaler_memory)}
    return {
        "version": "v2",
        "upscalingMode": "Default",
        "idleTimeoutSeconds": settings.worker_idle_seconds,
        "imagePullPolicy": settings.image_pull_policy,
        "resources": {"requests": room, "limits": {"memory": room["memory"]}},
        "securityContext": _confined(),
        "volumeMounts": [{"name": _IDENTITY, "mountPath": _ACCOUNT_FOLDER, "readOnly": True}],
    }


def start_params(size: Size, *, is_head: bool) -> dict[str, str]:
    """Parameters of ``ray start``. KubeRay takes memory and GPUs from the container's limits."""
    params = {"num-cpus": str(size.ray_cpu)}
    return {"dashboard-host": "0.0.0.0", **params} if is_head else params  # noqa: S104  the pod's own network


def room_of(size: Size, settings: KubernetesSettings) -> Object:
    """Resources of the Ray container. Cores have a request and no limit, so that it may use a node's idle cores."""
    memory = {"memory": bytes_(size.memory)}
    gpu = {settings.gpu_resource: str(round(size.gpu))} if size.gpu else {}
    return {"requests": {"cpu": cores(size.cpu), **memory, **gpu}, "limits": {**memory, **gpu}}


def refusals(size: Size) -> list[str]:
    """Reasons why Kubernetes can't provide a node of this size; empty if it can."""
    if float(size.gpu).is_integer():
        return []
    return [f"A node of {size.gpu:g} GPUs can't be had: Kubernetes gives whole ones. Use a size with a whole number."]


def environment(launch: LaunchContext) -> dict[str, str]:
    """Environment of head and workers, hence of drivers and tasks. It has paths of secrets, never secrets."""
    threads = str(max(1, int(launch.size.cpu) // 2))
    return {
        **launch.env,
        **{variable: f"{SECRETS}/{variable}" for variable in launch.secrets},
        **RAY_ENVIRONMENT,
        "RAY_AUTH_TOKEN_PATH": f"{SECRETS}/{AUTH_TOKEN}",
        # Libraries that start a thread per core in every worker would only slow each other down.
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads),
        # The user id may be missing in the image's passwd.
        "HOME": "/tmp",  # noqa: S108
        "USER": "ray",
    }


def cores(value: float) -> str:
    """Cores as a Kubernetes quantity: ``2``, ``500m``."""
    milli = round(value * 1000)
    return str(milli // 1000) if milli % 1000 == 0 else f"{milli}m"


def bytes_(value: float) -> str:
    """Bytes as a Kubernetes quantity, in the largest binary unit that divides them."""
    number = round(value)
    for unit, size in (("Ti", 2**40), ("Gi", 2**30), ("Mi", 2**20), ("Ki", 2**10)):
        if number and number % size == 0:
            return f"{number // size}{unit}"
    return str(number)


def folder(root: str) -> str | None:
    """Path of a storage root on a file system; None for an object store, which needs no volume."""
    parts = urlsplit(root)
    return unquote(parts.path).rstrip("/") if parts.scheme == "file" else None


def _template(
    name: str, ports: list[Object], owner: Owner, launch: LaunchContext, settings: KubernetesSettings, root: str
) -> Object:
    mounts: list[Object] = [{"name": "secrets", "mountPath": SECRETS, "readOnly": True}]
    # Mount these keys only: the Secret's other keys are for KubeRay.
    items = [{"key": key, "path": key} for key in sorted((*launch.secrets, AUTH_TOKEN))]
    secret = {"secretName": owner.secret, "defaultMode": 0o400, "items": items}
    volumes: list[Object] = [{"name": "secrets", "secret": secret}]
    path = folder(root)
    if path is not None:
        # A file:// URI must be valid on every node, and a team must not see another team's files.
        part = {} if settings.has_a_volume_for_each_team else {"subPath": owner.team}
        mounts.append({"name": "storage", "mountPath": f"{path}/{owner.team}", **part})
        volumes.append({"name": "storage", "persistentVolumeClaim": {"claimName": settings.storage_claim}})
    container = {
        "name": name,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "env": [{"name": key, "value": value} for key, value in sorted(environment(launch).items())],
        "ports": ports,
        "resources": room_of(launch.size, settings),
        "securityContext": _confined(),
        "volumeMounts": mounts,
        # Keep a process's last output in its pod's status: it is lost otherwise when KubeRay replaces the pod.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    spec: Object = {
        "containers": [container],
        "volumes": volumes,
        # Never restart in place: KubeRay replaces a pod that ended, and autoscaler v2 demands it.
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": settings.termination_seconds,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": settings.run_as_user,
            "runAsGroup": settings.run_as_user,
            # Without it only root could read a mounted Secret.
            "fsGroup": settings.run_as_user,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    if settings.node_selector:
        spec["nodeSelector"] = dict(settings.node_selector)
    if settings.tolerations:
        spec["tolerations"] = [dict(toleration) for toleration in settings.tolerations]
    if settings.image_pull_secret:
        spec["imagePullSecrets"] = [{"name": settings.image_pull_secret}]
    return {"metadata": {"labels": owner.labels}, "spec": spec}


def _confined() -> Object:
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True}


def _identity() -> Object:
    """The service account's token as a volume for the autoscaler alone.

    Kubernetes would mount it into every container of the pod, and a team's code runs in one of them.
    """
    return {
        "name": _IDENTITY,
        "projected": {
            "defaultMode": 0o440,
            "sources": [
                {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {
                    "downwardAPI": {
                        "items": [
                            {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
                        ]
                    }
                },
            ],
        },
    }
