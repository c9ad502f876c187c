"""The objects that the cases of the differential table are mutations of: shapes of our own, and KubeRay's samples.

The samples are read from the operator's Go module when the tests run; none of them is here.
"""

from __future__ import annotations

import copy
import itertools
import re
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from rayplane.errors import Unavailable
from rayplane.gateway.backends.base import ClusterRef, LaunchContext
from rayplane.gateway.backends.kubernetes import raycluster
from rayplane.gateway.backends.kubernetes.settings import KubernetesSettings
from rayplane.nouns.cluster import ClusterSpec, Workers
from rayplane.nouns.team import Size
from tests.kubernetes.bed.api import Object

OPERATOR = "github.com/ray-project/kuberay/ray-operator"
KINDS = ("RayCluster", "RayJob", "RayService", "RayCronJob")

_MODULE = Path(__file__).parents[1] / "tools" / "kuberay"


@lru_cache(maxsize=1)
def module() -> Path:
    """Where the operator's Go module is, in the version of the test bed. Raises Unavailable without Go."""
    command = ["go", "list", "-mod=mod", "-m", "-f", "{{.Dir}}", OPERATOR]
    try:
        folder = subprocess.run(command, cwd=_MODULE, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        raise Unavailable(f"'{' '.join(command)}' found no module: {error}", remedy="Install Go 1.26.") from error
    if not folder:
        raise Unavailable(f"{OPERATOR} is not downloaded.", remedy="Run: make kubernetes-tools")
    return Path(folder)


@lru_cache(maxsize=1)
def crds() -> dict[str, Object]:
    """KubeRay's definitions by kind, as its module has them."""
    folder = [_load(path) for path in sorted((module() / "config/crd/bases").glob("*.yaml"))]
    return {crd["spec"]["names"]["kind"]: crd for crd in folder}


@lru_cache(maxsize=1)
def samples() -> dict[str, Object]:
    """KubeRay's documented objects: ``<file>#<number>`` -> object."""
    root, folder = module() / "config/samples", {}
    for path in sorted(root.rglob("*.yaml")):
        documents = [each for each in yaml.load_all(path.read_text(), yaml.CSafeLoader) if each]
        for number, document in enumerate(each for each in documents if each.get("kind") in KINDS):
            folder[f"{path.relative_to(root)}#{number}"] = document
    return folder


def _load(path: Path) -> Object:
    loaded: Object = yaml.load(path.read_text(), yaml.CSafeLoader)
    return loaded


def _template(container: str, **more: Any) -> Object:
    room = {"cpu": "500m", "memory": "1Gi"}
    main = {
        "name": container,
        "image": "example/ray:2.60.0",
        "imagePullPolicy": "IfNotPresent",
        "env": [{"name": "RAYPLANE_TEAM", "value": "growth"}],
        "resources": {"requests": dict(room), "limits": dict(room)},
        "volumeMounts": [{"name": "token", "mountPath": "/var/run/rayplane", "readOnly": True}],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        **more,
    }
    return {
        "metadata": {"labels": {"app.kubernetes.io/part-of": "rayplane"}},
        "spec": {
            "containers": [main],
            "volumes": [{"name": "token", "secret": {"secretName": "dev-token"}}],
            "securityContext": {"runAsNonRoot": True, "runAsUser": 1000},
        },
    }


def cluster_spec() -> Object:
    """A cluster as a platform would ask for it: token, second autoscaler, 0 to 2 workers."""
    ports = [{"name": "gcs", "containerPort": 6379}, {"name": "serve", "containerPort": 8000}]
    return {
        "rayVersion": "2.60.0",
        "authOptions": {"mode": "token"},
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {"version": "v2", "idleTimeoutSeconds": 60, "upscalingMode": "Default"},
        "headGroupSpec": {
            "rayStartParams": {"dashboard-host": "0.0.0.0", "num-cpus": "0"},
            "template": _template("ray-head", ports=ports),
        },
        "workerGroupSpecs": [
            {
                "groupName": "workers",
                "replicas": 1,
                "minReplicas": 0,
                "maxReplicas": 2,
                "rayStartParams": {},
                "template": _template("ray-worker"),
            }
        ],
    }


def _object(kind: str, spec: Object) -> Object:
    metadata = {"name": "shape", "labels": {"app.kubernetes.io/managed-by": "rayplane"}, "annotations": {}}
    return {"apiVersion": "ray.io/v1", "kind": kind, "metadata": metadata, "spec": spec}


SERVE_CONFIG = """
applications:
- name: delays
  route_prefix: /
  import_path: serving.model_app:app
  deployments:
  - name: Model
    num_replicas: 1
"""


@lru_cache(maxsize=1)
def _own() -> dict[str, Object]:
    fixed = cluster_spec()
    del fixed["enableInTreeAutoscaling"], fixed["autoscalerOptions"]
    rules = [
        {"policy": "DeleteWorkers", "condition": {"jobStatus": "SUCCEEDED", "ttlSeconds": 10}},
        {"policy": "DeleteCluster", "condition": {"jobStatus": "SUCCEEDED", "ttlSeconds": 60}},
        {"policy": "DeleteSelf", "condition": {"jobDeploymentStatus": "Failed", "ttlSeconds": 600}},
    ]
    job = {"entrypoint": "python -m jobs.train", "submissionMode": "HTTPMode", "rayClusterSpec": fixed}
    return {
        "cluster": _object("RayCluster", cluster_spec()),
        "fixed": _object("RayCluster", fixed),
        "job": _object("RayJob", {**job, "shutdownAfterJobFinishes": True, "ttlSecondsAfterFinished": 30}),
        "rules": _object("RayJob", {**job, "deletionStrategy": {"deletionRules": rules}}),
        "borrowing": _object(
            "RayJob",
            {"entrypoint": "true", "submissionMode": "HTTPMode", "clusterSelector": {"ray.io/cluster": "shared"}},
        ),
        "service": _object("RayService", {"serveConfigV2": SERVE_CONFIG, "rayClusterConfig": cluster_spec()}),
        "cron": _object("RayCronJob", {"schedule": "30 2 * * 1-5", "jobTemplate": dict(job)}),
    }


def rendered() -> Object:
    """The RayCluster that the backend applies for a cluster of 0 to 2 workers."""
    ref = ClusterRef(team="growth", name="shape", uid="0123456789abcdef0123456789abcdef")
    launch = LaunchContext(
        size=Size(cpu=2, memory=4 * 2**30),
        env={"RAYPLANE_TEAM": "growth"},
        secrets={"RAYPLANE_TOKEN_PATH": "the token"},
    )
    spec = ClusterSpec(workers=Workers(min=0, max=2))
    return raycluster.render(ref, spec, launch, KubernetesSettings(_env_file=None), "s3://bucket/root")


def own(name: str) -> Object:
    """A fresh copy of a shape of our own: cluster, fixed, job, rules, borrowing, service, cron; or rendered."""
    return rendered() if name == "rendered" else copy.deepcopy(_own()[name])


DROP = ...
"""Value that removes a field."""


def put(thing: Object, path: str, value: Any) -> None:
    """Set a field below dots, brackets and quotes: ``spec.workerGroupSpecs[0].template``, ``metadata.labels['a/b']``.

    What is missing on the way is made; a list takes one more at its end.
    """
    steps = [int(number) if number else (name or quoted) for name, number, quoted in _STEPS.findall(path)]
    here: Any = thing
    for step, after in itertools.pairwise(steps):
        here = _down(here, step, [] if isinstance(after, int) else {})
    last = steps[-1]
    if value is DROP:
        del here[last]
    elif isinstance(here, list) and last == len(here):
        here.append(value)
    else:
        here[last] = value


_STEPS = re.compile(r"([A-Za-z0-9_-]+)|\[(\d+)\]|\['([^']+)'\]")


def _down(here: Any, step: Any, empty: Any) -> Any:
    if isinstance(here, list):
        if step == len(here):
            here.append(empty)
    elif here.get(step) is None:
        here[step] = empty
    return here[step]
