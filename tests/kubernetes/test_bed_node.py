"""The bed's real node: pods run its image, reach each other and the host, and Ray's clusters grow and shrink on it."""

from __future__ import annotations

import base64
import json
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest

from tests.kubernetes.bed.api import Api, ApiError, Object, condition, wait_for
from tests.kubernetes.bed.level_b import LevelB
from tests.kubernetes.support import autoscaled, namespace, restricted_pod

RAY = "ray.io/v1"
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def room(level_b: LevelB) -> Iterator[str]:
    """A restricted namespace, gone with all of its pods before the next test."""
    with namespace(level_b.api, labels=RESTRICTED) as name:
        wait_for("service account", lambda: level_b.api.get("v1", "ServiceAccount", "default", name), seconds=60)
        yield name
    wait_for("namespace gone", lambda: level_b.api.get("v1", "Namespace", name) is None, seconds=120)


def test_a_pod_of_the_image_runs_without_privileges_and_reports_rays_version(level_b: LevelB, room: str) -> None:
    script = "import os, ray, rayplane.runtime; print(ray.__version__, os.getuid(), rayplane.__name__)"
    pod = run(level_b.api, restricted_pod("version", room, level_b.image, ["python", "-c", script]))
    said = logs(level_b.api, "version", room)
    print(f"pod {pod['metadata']['uid']} on {pod['spec']['nodeName']} with {level_b.image_digest} said: {said.strip()}")
    assert said.split() == ["2.60.0", "1000", "rayplane"]
    assert pod["status"]["containerStatuses"][0]["imageID"] == level_b.image_id


def test_pods_reach_the_api_server_by_name_and_the_host_by_its_address(level_b: LevelB, room: str) -> None:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(f"from {self.client_address[0]}".encode())

    script = """
import socket, ssl, sys, urllib.request
print(socket.gethostbyname("kubernetes.default.svc.cluster.local"))
tls = ssl.create_default_context(cafile="/var/run/secrets/kubernetes.io/serviceaccount/ca.crt")
tls.verify_flags &= ~ssl.VERIFY_X509_STRICT
token = open("/var/run/secrets/kubernetes.io/serviceaccount/token").read()
asked = urllib.request.Request("https://kubernetes.default/version", headers={"Authorization": "Bearer " + token})
print("v1.36.2" in urllib.request.urlopen(asked, context=tls, timeout=20).read().decode())
print(urllib.request.urlopen(sys.argv[1], timeout=20).read().decode())
"""
    with HTTPServer((level_b.host_address, 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://{level_b.host_address}:{server.server_port}/"
        pod = run(level_b.api, restricted_pod("reach", room, level_b.image, ["python", "-c", script, url]))
        server.shutdown()
    said = logs(level_b.api, "reach", room).splitlines()
    assert said == ["10.97.0.1", "True", f"from {pod['status']['podIP']}"]


def test_a_service_answers_the_host_and_pods_alike(level_b: LevelB, room: str) -> None:
    serve = restricted_pod("web", room, level_b.image, ["python", "-m", "http.server", "8080"], labels={"app": "web"})
    level_b.api.create(serve)
    ports = [{"port": 80, "targetPort": 8080}]
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": room}}
    made = level_b.api.create(service | {"spec": {"selector": {"app": "web"}, "ports": ports}})
    address = made["spec"]["clusterIP"]
    wait_for("an answer to the host", lambda: answers(f"http://{address}/"), seconds=60)
    # The pod calls itself too: answers between pods on the bridge must go through the node.
    script = "import urllib.request as u; print(u.urlopen('http://web/', timeout=20).status)"
    run(level_b.api, restricted_pod("caller", room, level_b.image, ["python", "-c", script]))
    assert logs(level_b.api, "caller", room).strip() == "200"
    level_b.api.delete("v1", "Pod", "web", room, grace=1)


def test_a_folder_of_the_host_is_shared_with_pods_at_the_same_path(level_b: LevelB, room: str, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    os.chmod(shared, 0o777)
    (shared / "from-host").write_text("hello")
    level_b.shared_volume(shared, "storage", room)
    script = (
        "import pathlib, sys; p = pathlib.Path(sys.argv[1]); (p / 'from-pod').write_text((p / 'from-host').read_text())"
    )
    pod = restricted_pod("writer", room, level_b.image, ["python", "-c", script, str(shared)])
    pod["spec"]["volumes"] = [{"name": "s", "persistentVolumeClaim": {"claimName": "storage"}}]
    pod["spec"]["containers"][0]["volumeMounts"] = [{"name": "s", "mountPath": str(shared)}]
    run(level_b.api, pod)
    assert (shared / "from-pod").read_text() == "hello"
    assert (shared / "from-pod").stat().st_uid == 1000


def test_a_privileged_pod_is_refused_where_the_namespace_is_restricted(level_b: LevelB, room: str) -> None:
    pod = restricted_pod("privileged", room, level_b.image, ["true"])
    pod["spec"]["containers"][0]["securityContext"] = {"privileged": True}
    with pytest.raises(ApiError, match="violates PodSecurity"):
        level_b.api.create(pod)


def test_a_ray_cluster_with_token_and_autoscaler_runs_a_job_from_zero_workers_and_back(
    level_b: LevelB, room: str
) -> None:
    began = time.monotonic()
    level_b.api.apply(autoscaled("dev", room, image=level_b.image, most=1, idle_seconds=5))
    cluster = wait_for("RayCluster ready", lambda: ready(level_b.api, "dev", room), seconds=300)
    print(f"RayCluster {cluster['metadata']['uid']} is ready after {time.monotonic() - began:.1f} s")
    assert worker_pods(level_b.api, room) == []

    secret = level_b.api.get("v1", "Secret", "dev", room)
    assert secret is not None
    token = base64.b64decode(secret["data"]["auth_token"]).decode()
    service = level_b.api.get("v1", "Service", "dev-head-svc", room)
    head = level_b.api.list("v1", "Pod", room, labels="ray.io/node-type=head")[0]
    assert service is not None
    # The head's Service has no address of its own: the host has no names of pods, so it asks the head itself.
    dashboard = f"http://{head['status']['podIP']}:8265"
    assert httpx.get(f"{dashboard}/api/version", timeout=30).status_code == 401
    with httpx.Client(base_url=dashboard, headers={"X-Ray-Authorization": f"Bearer {token}"}, timeout=60) as ray:
        version = ray.get("/api/version").raise_for_status().json()
        print(f"head {head['metadata']['uid']} runs Ray {version['ray_version']}")
        code = (
            "import ray; ray.init(); f = ray.remote(num_cpus=1)(lambda: 41 + 1); print('answer', ray.get(f.remote()))"
        )
        began = time.monotonic()
        job = (
            ray.post("/api/jobs/", json={"entrypoint": f'python -c "{code}"'})
            .raise_for_status()
            .json()["submission_id"]
        )
        wait_for("a worker", lambda: worker_pods(level_b.api, room), seconds=120)
        print(f"a worker pod after {time.monotonic() - began:.1f} s")
        wait_for("the job over", lambda: ended(ray, job), seconds=240, every=1)
        assert ended(ray, job) == "SUCCEEDED", ray.get(f"/api/jobs/{job}/logs").text
        assert "answer 42" in ray.get(f"/api/jobs/{job}/logs").json()["logs"]
        print(f"job {job} succeeded after {time.monotonic() - began:.1f} s")
    wait_for("no worker again", lambda: not worker_pods(level_b.api, room), seconds=180, every=1)
    print(f"no worker again after {time.monotonic() - began:.1f} s")
    level_b.api.delete(RAY, "RayCluster", "dev", room)


def run(api: Api, pod: Object) -> Object:
    """Run a pod to its end. Raises AssertionError with its log if it fails."""
    name, where = pod["metadata"]["name"], pod["metadata"]["namespace"]
    api.create(pod)

    def over() -> Object | None:
        pod_now = api.get("v1", "Pod", name, where)
        return pod_now if pod_now and pod_now["status"].get("phase") in ("Succeeded", "Failed") else None

    done = wait_for(f"pod {name} over", over, seconds=120)
    assert done["status"]["phase"] == "Succeeded", logs(api, name, where) or json.dumps(done["status"])
    return done


def logs(api: Api, name: str, where: str) -> str:
    return str(api.request("GET", api.path("v1", "Pod", name=name, namespace=where) + "/log"))


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.TransportError:
        return False


def ready(api: Api, name: str, where: str) -> Object | None:
    cluster = api.get(RAY, "RayCluster", name, where)
    return (
        cluster if condition(cluster, "HeadPodReady") == condition(cluster, "RayClusterProvisioned") == "True" else None
    )


def worker_pods(api: Api, where: str) -> list[Object]:
    return api.list("v1", "Pod", where, labels="ray.io/node-type=worker")


def ended(ray: httpx.Client, job: str) -> str | None:
    status = str(ray.get(f"/api/jobs/{job}").raise_for_status().json()["status"])
    return status if status in ("SUCCEEDED", "FAILED", "STOPPED") else None
