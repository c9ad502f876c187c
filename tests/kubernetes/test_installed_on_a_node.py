"""The platform as deploy/kubernetes installs it: in a pod, as the gateway's own account, driven from outside."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from rayplane.client.sdk import Client
from tests.kubernetes.bed import tools
from tests.kubernetes.bed.api import condition, wait_for
from tests.kubernetes.bed.level_b import STORAGE_CLASS, LevelB

pytestmark = pytest.mark.timeout(900)

DEPLOY = Path(__file__).parents[2] / "deploy" / "kubernetes"
OURS, TEAM = "rayplane", "tenants"
GRACE = 120
TOKEN = "/var/lib/rayplane/home/state/token"
TRACKED = """
import mlflow
mlflow.log_metric("answer", 42)
run = mlflow.last_active_run()
print("tracked", run.info.run_id, mlflow.get_run(run.info.run_id).data.metrics)
"""


class Installed:
    """The platform in the bed, and kubectl."""

    def __init__(self, bed: LevelB, folder: Path) -> None:
        self.bed = bed
        self.folder = folder
        self.overlay = folder / "overlay"
        self._kubectl = str(tools.find(["kubectl"])["kubectl"])

    def kubectl(self, *arguments: str) -> str:
        """Run kubectl as the bed's admin; what it printed."""
        argv = [self._kubectl, f"--kubeconfig={self.bed.kubeconfig}", *arguments]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def client(self) -> Client:
        """The SDK, with the admin's token."""
        token = self.folder / "token"
        token.touch(mode=0o600)
        token.write_text(self.kubectl("exec", "-n", OURS, "deploy/rayplane", "--", "cat", TOKEN))
        service = self.bed.api.get("v1", "Service", "rayplane", OURS)
        assert service is not None
        url = f"http://{service['spec']['clusterIP']}:8470"
        # The node gets its rules for a Service a moment after the pod is available.
        wait_for("the gateway answers", lambda: _answers(f"{url}/readyz"), seconds=60)
        return Client(url, token)

    def pod(self) -> str:
        """The name of its only pod; empty while there is none, or more than one."""
        pods = self.bed.api.list("v1", "Pod", OURS, labels="app.kubernetes.io/name=rayplane")
        return str(pods[0]["metadata"]["name"]) if len(pods) == 1 else ""


@pytest.fixture(scope="module")
def installed(level_b: LevelB, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """`kubectl apply -k` of an overlay, as docs/how-to/kubernetes.md shows one, and ready."""
    folder = tmp_path_factory.mktemp("installed")
    for parent in (folder, *folder.parents[:2]):  # pytest keeps its folders to itself
        parent.chmod(parent.stat().st_mode | 0o055)
    made = Installed(level_b, folder)
    for claim, mode in (("rayplane-home", "ReadWriteOnce"), ("rayplane-storage", "ReadWriteMany")):
        (folder / claim).mkdir()
        shutil.chown(folder / claim, 1000, 1000)
        level_b.offer(folder / claim, claim, OURS, mode)
    write_overlay(made)
    began = time.monotonic()
    # Other tests of the bed have applied the role, as another manager.
    made.kubectl("apply", "--server-side", "--force-conflicts", "-k", str(made.overlay))
    wait_for("the platform available", lambda: available(level_b), seconds=240)
    print(f"node: installed and ready after {time.monotonic() - began:.1f} s: pod {made.pod()}")
    yield made
    for kind in ("deployment", "service", "configmap"):
        made.kubectl("delete", kind, "rayplane", "--namespace", OURS)
    made.kubectl("delete", "pvc", "rayplane-home", "rayplane-storage", "--namespace", OURS)
    made.kubectl("delete", "pv", f"{OURS}-rayplane-home", f"{OURS}-rayplane-storage")


def test_a_team_works_on_the_installation_and_a_new_gateway_finds_everything_unchanged(installed: Installed) -> None:
    with installed.client() as api:
        size = {"cpu": "300m", "memory": "3Gi", "logical_cpu": 2}
        api.teams.apply("", TEAM, {"backend": "kubernetes", "members": {"local": "admin"}, "sizes": {"small": size}})
        api.teams.wait("", TEAM, timeout=120)
        began = time.monotonic()
        api.clusters.apply(TEAM, "dev", {"size": "small"})
        api.clusters.wait(TEAM, "dev", timeout=240)
        before = head(installed.bed)
        print(f"node: a cluster is ready after {time.monotonic() - began:.1f} s: {before}")
        api.jobs.apply(TEAM, "tracked", {"entrypoint": f"python -c '{TRACKED}'", "cluster": "dev"})
        job = api.jobs.wait(TEAM, "tracked", timeout=240)
        said = "".join(api.jobs.logs(TEAM, "tracked", follow=False))
        assert job.status["phase"] == "Succeeded", said
        assert f"tracked {job.status['run_id']} {{'answer': 42.0}}" in said

    old, began = installed.pod(), time.monotonic()
    installed.kubectl("delete", "pod", old, "--namespace", OURS)
    assert time.monotonic() - began < 0.8 * GRACE, "it was killed at the end of its grace period"
    wait_for(
        "another pod available", lambda: installed.pod() not in ("", old) and available(installed.bed), seconds=240
    )
    said = installed.kubectl("logs", "--namespace", OURS, "deploy/rayplane")
    assert "the gateway listens at" in said
    with installed.client() as api:
        assert "".join(api.jobs.logs(TEAM, "tracked", follow=False))
        api.clusters.wait(TEAM, "dev", timeout=120)
        assert head(installed.bed) == before
        api.clusters.delete(TEAM, "dev")
        api.clusters.wait_deleted(TEAM, "dev")
        api.teams.delete("", TEAM)
        api.teams.wait_deleted("", TEAM)
    assert installed.bed.api.get("v1", "Namespace", f"rayplane-{TEAM}") is None


def test_the_installations_secrets_are_readable_by_their_owner_only_and_in_no_manifest(installed: Installed) -> None:
    state = installed.folder / "rayplane-home" / "state"
    files = [state / "token", *(path for path in (state / "secrets").iterdir() if path.is_file())]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    manifests = installed.kubectl("get", "all,configmap,secret", "--namespace", OURS, "-o", "yaml")
    assert [path.name for path in files if path.read_text().strip() in manifests] == []


def write_overlay(made: Installed) -> None:
    """Write an admin's overlay: the image, the storage class of the claims, and the storage root."""
    bed = made.bed
    shutil.copytree(DEPLOY, made.overlay / "base")
    name, _, tag = bed.image.rpartition(":")
    claim = [{"op": "add", "path": "/spec/storageClassName", "value": STORAGE_CLASS}]
    small = [
        {"op": "replace", "path": "/spec/template/spec/containers/0/resources/requests/cpu", "value": "100m"},
        {"op": "replace", "path": "/spec/template/spec/terminationGracePeriodSeconds", "value": GRACE},
    ]
    settings = {
        "RAYPLANE_KUBERNETES_IMAGE": bed.image,
        "RAYPLANE_KUBERNETES_STORAGE_VOLUME": json.dumps({"hostPath": {"path": str(made.folder / "rayplane-storage")}}),
        "RAYPLANE_KUBERNETES_OPERATOR_NAMESPACE": "kuberay",
        "RAYPLANE_KUBERNETES_REQUEST_TIMEOUT": "25",
    }
    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": ["base"],
        "images": [{"name": "rayplane/rayplane", "newName": name, "newTag": tag}],
        "patches": [
            {"target": {"kind": "PersistentVolumeClaim"}, "patch": yaml.safe_dump(claim)},
            {"target": {"kind": "Deployment"}, "patch": yaml.safe_dump(small)},
            {
                "patch": yaml.safe_dump(
                    {
                        "apiVersion": "v1",
                        "kind": "ConfigMap",
                        "metadata": {"name": "rayplane", "namespace": OURS},
                        "data": settings,
                    }
                )
            },
        ],
    }
    (made.overlay / "kustomization.yaml").write_text(yaml.safe_dump(overlay))


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=30, trust_env=False).is_success
    except httpx.TransportError:
        return False


def available(bed: LevelB) -> bool:
    return condition(bed.api.get("apps/v1", "Deployment", "rayplane", OURS), "Available") == "True"


def head(bed: LevelB) -> str:
    """Name and uid of the head."""
    [pod] = bed.api.list("v1", "Pod", f"rayplane-{TEAM}", labels="ray.io/node-type=head")
    return f"{pod['metadata']['name']} {pod['metadata']['uid']}"
