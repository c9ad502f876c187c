"""Templates of Ray's pods: image, room, secrets, storage, and what the Pod Security profile `restricted` asks. Pure.

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
"""Ray's own choice, on each node: its agent serves the node's log files."""
GCS = 6379
PORTS = {"gcs-server": GCS, "client": CLIENT, "dashboard": DASHBOARD, "serve": SERVE, "metrics": METRICS}
"""The head's ports. A RayService needs one that is named ``serve``."""

HEAD, WORKER, AUTOSCALER = "ray-head", "ray-worker", "autoscaler"
"""Names of containers; the last is KubeRay's."""

SECRETS = "/var/run/secrets/rayplane"
AUTH_TOKEN = "auth_token"  # noqa: S105  the key's name
"""Key of a cluster's Secret that KubeRay reads Ray's own token from."""

TEAM_ACCOUNT = "rayplane-team"
"""Service account of a team's pods: it may do nothing."""

_ACCOUNT_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"
_IDENTITY = "autoscaler-identity"


@dataclass(frozen=True)
class Owner:
    """Whose pods these are: a cluster, or what else of a team has pods of its own."""

    team: str
    name: str
    uid: str
    """Of the platform's object."""
    secret: str
    """Name of the Secret with its secrets."""

    @property
    def labels(self) -> dict[str, str]:
        """What every object of this owner carries."""
        return {MANAGED_BY: MANAGER, TEAM: self.team, CLUSTER: self.name, UID: self.uid}


def head(owner: Owner, launch: LaunchContext, settings: KubernetesSettings, root: str, *, autoscaled: bool) -> Object:
    """The head's template. Beside an autoscaler its pod carries that one's identity, which only it mounts."""
    ports = [{"name": name, "containerPort": port, "protocol": "TCP"} for name, port in PORTS.items()]
    template = _template(HEAD, ports, owner, launch, settings, root)
    if autoscaled:
        template["spec"]["volumes"].append(_identity())  # KubeRay makes its service account and names it
    else:
        template["spec"]["serviceAccountName"] = TEAM_ACCOUNT
    return template


def worker(owner: Owner, launch: LaunchContext, settings: KubernetesSettings, root: str) -> Object:
    """A worker's template."""
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
    """What ``ray start`` is told; memory and GPUs KubeRay takes from the container's limits."""
    params = {"num-cpus": str(size.ray_cpu)}
    return {"dashboard-host": "0.0.0.0", **params} if is_head else params  # noqa: S104  the pod's own network


def room_of(size: Size, settings: KubernetesSettings) -> Object:
    """What the Ray container asks for. Cores are a request alone: what a node has to spare may be used."""
    memory = {"memory": bytes_(size.memory)}
    gpu = {settings.gpu_resource: str(round(size.gpu))} if size.gpu else {}
    return {"requests": {"cpu": cores(size.cpu), **memory, **gpu}, "limits": {**memory, **gpu}}


def refusals(size: Size) -> list[str]:
    """Why Kubernetes can't give such room."""
    if float(size.gpu).is_integer():
        return []
    return [f"A node of {size.gpu:g} GPUs can't be had: Kubernetes gives whole ones. Use a size with a whole number."]


def environment(launch: LaunchContext) -> dict[str, str]:
    """What head and workers, hence drivers and tasks, find in their environment. Paths of secrets, never secrets."""
    threads = str(max(1, int(launch.size.cpu) // 2))
    return {
        **launch.env,
        **{variable: f"{SECRETS}/{variable}" for variable in launch.secrets},
        **RAY_ENVIRONMENT,
        "RAY_AUTH_TOKEN_PATH": f"{SECRETS}/{AUTH_TOKEN}",
        # Libraries that start a thread per core in every worker would only get in each other's way.
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads),
        # The user id need not be in the image's passwd.
        "HOME": "/tmp",  # noqa: S108
        "USER": "ray",
    }


def cores(value: float) -> str:
    """Cores as Kubernetes writes them: ``2``, ``500m``."""
    milli = round(value * 1000)
    return str(milli // 1000) if milli % 1000 == 0 else f"{milli}m"


def bytes_(value: float) -> str:
    """Bytes as Kubernetes writes them: in the largest binary unit that divides them."""
    number = round(value)
    for unit, size in (("Ti", 2**40), ("Gi", 2**30), ("Mi", 2**20), ("Ki", 2**10)):
        if number and number % size == 0:
            return f"{number // size}{unit}"
    return str(number)


def folder(root: str) -> str | None:
    """The path of a storage root that is a folder; None where it is a store that needs no volume."""
    parts = urlsplit(root)
    return unquote(parts.path).rstrip("/") if parts.scheme == "file" else None


def _template(
    name: str, ports: list[Object], owner: Owner, launch: LaunchContext, settings: KubernetesSettings, root: str
) -> Object:
    mounts: list[Object] = [{"name": "secrets", "mountPath": SECRETS, "readOnly": True}]
    # Not all of the Secret: what else is in it is for KubeRay.
    items = [{"key": key, "path": key} for key in sorted((*launch.secrets, AUTH_TOKEN))]
    secret = {"secretName": owner.secret, "defaultMode": 0o400, "items": items}
    volumes: list[Object] = [{"name": "secrets", "secret": secret}]
    path = folder(root)
    if path is not None:
        # A file:// URI must mean the same everywhere, and a team sees no other team's files.
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
        # What a process said last is kept with its pod's status: nobody else remembers it once the pod is replaced.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    spec: Object = {
        "containers": [container],
        "volumes": volumes,
        # One head is one pod: KubeRay replaces one that ended, and its autoscaler v2 wants it so.
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": settings.termination_seconds,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": settings.run_as_user,
            "runAsGroup": settings.run_as_user,
            # Without it nobody but root could read a mounted Secret.
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
    """What Kubernetes mounts into every container by itself, for one container alone: a team's code runs beside it."""
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
