"""Rendered RayClusters and their pods: their fields, and Pod Security's profile `restricted`."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from rayplane.gateway.backends.base import RAY_ENVIRONMENT, ClusterRef, LaunchContext
from rayplane.gateway.backends.kubernetes import compare, pods, raycluster
from rayplane.gateway.backends.kubernetes.kinds import as_yaml
from rayplane.gateway.backends.kubernetes.settings import KubernetesSettings
from rayplane.nouns.cluster import ClusterSpec, Workers
from rayplane.nouns.team import Size

REF = ClusterRef(team="growth", name="dev", uid="0123456789abcdef0123456789abcdef")
SETTINGS = KubernetesSettings(image="registry.test/ray@sha256:" + "0" * 64)
LAUNCH = LaunchContext(
    size=Size(cpu=4, memory=8 * 2**30, gpu=1),
    env={"RAYPLANE_TEAM": "growth"},
    secrets={"RAYPLANE_TOKEN_PATH": "a-secret-text"},
)
ROOT = "s3://bucket/root"


def rendered(workers: Workers | None = None, *, settings: KubernetesSettings = SETTINGS, **more: Any) -> dict[str, Any]:
    spec = ClusterSpec(workers=workers or Workers())
    return raycluster.render(REF, spec, LAUNCH, settings, more.pop("root", ROOT), **more)


def templates(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    spec = manifest["spec"]
    return [spec["headGroupSpec"]["template"], *(group["template"] for group in spec["workerGroupSpecs"])]


def container(template: dict[str, Any]) -> dict[str, Any]:
    (only,) = template["spec"]["containers"]
    result: dict[str, Any] = only
    return result


def environment(template: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container(template)["env"]}


def test_no_secret_is_in_the_raycluster() -> None:
    assert "a-secret-text" not in json.dumps(rendered(Workers(min=0, max=2)))


def test_every_pod_mounts_its_secrets_as_files_of_the_clusters_own_secret() -> None:
    for template in templates(rendered(Workers(min=1, max=2))):
        assert environment(template)["RAYPLANE_TOKEN_PATH"] == f"{pods.SECRETS}/RAYPLANE_TOKEN_PATH"
        volume = next(v for v in template["spec"]["volumes"] if v["name"] == "secrets")
        items = [{"key": key, "path": key} for key in ("RAYPLANE_TOKEN_PATH", "auth_token")]
        assert volume["secret"] == {"secretName": "dev-secrets", "defaultMode": 0o400, "items": items}


def test_every_pod_has_the_environment_of_every_ray() -> None:
    for template in templates(rendered(Workers(min=1, max=2))):
        assert RAY_ENVIRONMENT.items() <= environment(template).items()


def test_ray_asks_for_its_token_which_is_in_the_same_secret() -> None:
    manifest = rendered()
    assert manifest["spec"]["authOptions"] == {"mode": "token", "secretName": "dev-secrets"}


@pytest.mark.parametrize("workers", [Workers(), Workers(min=1, max=1), Workers(min=0, max=4)])
def test_every_pod_satisfies_the_profile_restricted(workers: Workers) -> None:
    manifest = rendered(workers, root="file:///srv/root")
    for template in templates(manifest):
        spec = template["spec"]
        assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        kinds = {kind for volume in spec["volumes"] for kind in volume if kind != "name"}
        assert kinds <= {"secret", "projected", "persistentVolumeClaim", "emptyDir"}
        assert not any("hostPort" in port for port in container(template)["ports"])
    contexts = [container(template)["securityContext"] for template in templates(manifest)]
    if "autoscalerOptions" in manifest["spec"]:
        contexts.append(manifest["spec"]["autoscalerOptions"]["securityContext"])
    for context in contexts:
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert not context.get("privileged")


def test_only_the_autoscaler_has_a_token_for_the_api_server() -> None:
    manifest = rendered(Workers(min=0, max=2))
    for template in templates(manifest):
        assert template["spec"]["automountServiceAccountToken"] is False
        mounted = {mount["name"] for mount in container(template)["volumeMounts"]}
        assert mounted == {"secrets"}
    (mount,) = manifest["spec"]["autoscalerOptions"]["volumeMounts"]
    assert mount["name"] in {volume["name"] for volume in templates(manifest)[0]["spec"]["volumes"]}
    assert mount["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount"


def test_only_a_range_of_workers_gets_autoscaler_v2() -> None:
    moving, fixed, none = rendered(Workers(min=0, max=4)), rendered(Workers(min=2, max=2)), rendered()
    assert moving["spec"]["enableInTreeAutoscaling"] is True
    assert moving["spec"]["autoscalerOptions"]["version"] == "v2"
    (group,) = moving["spec"]["workerGroupSpecs"]
    assert (group["groupName"], group["minReplicas"], group["maxReplicas"]) == ("workers", 0, 4)
    assert group["idleTimeoutSeconds"] == SETTINGS.worker_idle_seconds
    assert fixed["spec"]["enableInTreeAutoscaling"] is False
    assert "autoscalerOptions" not in fixed["spec"]
    assert fixed["spec"]["workerGroupSpecs"][0]["replicas"] == 2
    assert "idleTimeoutSeconds" not in fixed["spec"]["workerGroupSpecs"][0]
    assert none["spec"]["workerGroupSpecs"] == []


def test_pods_request_the_size_and_ray_offers_its_cores() -> None:
    manifest = rendered(Workers(min=1, max=1))
    for template in templates(manifest):
        room = container(template)["resources"]
        assert room["requests"] == {"cpu": "4", "memory": "8Gi", "nvidia.com/gpu": "1"}
        assert room["limits"] == {"memory": "8Gi", "nvidia.com/gpu": "1"}
    assert manifest["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "4"


def test_the_head_has_rays_ports_by_name() -> None:
    ports = {p["name"]: p["containerPort"] for p in container(templates(rendered())[0])["ports"]}
    assert ports == {"gcs-server": 6379, "client": 10001, "dashboard": 8265, "serve": 8000, "metrics": 8080}


def test_a_storage_root_on_a_file_system_is_mounted_at_its_own_path_and_shows_one_team_only() -> None:
    for template in templates(rendered(Workers(min=1, max=1), root="file:///srv/the%20root/")):
        mount = next(m for m in container(template)["volumeMounts"] if m["name"] == "storage")
        assert mount == {"name": "storage", "mountPath": "/srv/the root/growth", "subPath": "growth"}
        volume = next(v for v in template["spec"]["volumes"] if v["name"] == "storage")
        assert volume["persistentVolumeClaim"] == {"claimName": "rayplane-storage"}
    assert not any(v["name"] == "storage" for v in templates(rendered())[0]["spec"]["volumes"])


def test_a_volume_of_a_teams_own_folder_is_mounted_whole() -> None:
    settings = KubernetesSettings(storage_volume={"nfs": {"server": "files.test", "path": "/srv/{team}"}})
    (template,) = templates(rendered(settings=settings, root="file:///srv"))
    mounts = container(template)["volumeMounts"]
    assert {"name": "storage", "mountPath": "/srv/growth"} in mounts


def test_a_fraction_of_a_gpu_is_refused() -> None:
    assert pods.refusals(Size(cpu=1, memory=1, gpu=2)) == []
    assert "0.5 GPUs" in pods.refusals(Size(cpu=1, memory=1, gpu=0.5))[0]


@pytest.mark.parametrize("text", ["plain", "ümlaut", "🎉", '"\\ud83c\\udf89"', "\\\x7f\ufeff\u2028\n", "𐍈𐍈"])
def test_yaml_for_go_is_parsed_as_the_original_text(text: str) -> None:
    written = as_yaml({"env_vars": {"A": text}})
    assert json.loads(written) == {"env_vars": {"A": text}}
    # go-yaml takes no half of a surrogate pair as an escape, and no control character as it is.
    assert not re.search(r"(?<!\\)(?:\\\\)*\\u[dD][89a-fA-F]", written)
    assert all(c == "\n" or " " <= c <= "~" or c > "\uffff" for c in written)
    assert yaml.safe_load(written) == {"env_vars": {"A": text}}


def test_a_pod_is_never_restarted_in_place_so_that_one_head_is_one_pod() -> None:
    assert {t["spec"]["restartPolicy"] for t in templates(rendered(Workers(min=1, max=2)))} == {"Never"}


def test_a_redis_turns_on_gcs_fault_tolerance(tmp_path: Any) -> None:
    password = tmp_path / "redis"
    with_redis = KubernetesSettings(redis_address="redis:6379", redis_password_path=password)
    options = rendered(settings=with_redis)["spec"]["gcsFaultToleranceOptions"]
    reference = {"secretKeyRef": {"name": "dev-secrets", "key": raycluster.REDIS_PASSWORD}}
    assert options == {"redisAddress": "redis:6379", "redisPassword": {"valueFrom": reference}}
    for template in templates(rendered(Workers(min=1, max=1), settings=with_redis)):
        volume = next(v for v in template["spec"]["volumes"] if v["name"] == "secrets")
        assert raycluster.REDIS_PASSWORD not in [item["key"] for item in volume["secret"]["items"]]
    assert "gcsFaultToleranceOptions" not in rendered()["spec"]


def test_a_redis_password_without_a_redis_is_refused(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="redis_address is not"):
        KubernetesSettings(redis_password_path=tmp_path / "redis")


def test_names_of_forty_characters_fit_every_derived_name() -> None:
    name = "n" * 40
    assert len(SETTINGS.namespace(name)) <= 63
    assert len(raycluster.secret_name(name)) <= 63
    assert len(f"{name}-head-svc") <= 63


def test_the_hash_changes_with_the_wanted_spec_only() -> None:
    def asked(manifest: dict[str, Any]) -> str:
        asked_hash: str = manifest["metadata"]["annotations"][raycluster.ASKED_HASH]
        return asked_hash

    assert asked(rendered()) == asked(rendered())
    different = [rendered(Workers(min=0, max=1)), rendered(root="file:///srv")]
    assert len({asked(m) for m in [rendered(), *different]}) == 3


def test_fields_of_the_autoscaler_and_the_operator_are_no_drift() -> None:
    actual = json.loads(json.dumps(rendered(Workers(min=0, max=4))))
    actual["spec"]["workerGroupSpecs"][0] |= {"replicas": 3, "scaleStrategy": {"workersToDelete": ["a"]}}
    actual["spec"]["headGroupSpec"]["template"]["spec"]["dnsPolicy"] = "ClusterFirst"
    actual["metadata"]["finalizers"] = ["ray.io/gcs-ft-redis-cleanup-finalizer"]
    assert raycluster.drift(actual) == ""


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda spec: spec.update(suspend=True), "spec.suspend"),
        (lambda spec: spec["workerGroupSpecs"][0].update(maxReplicas=99), "maxReplicas"),
        (lambda spec: spec["workerGroupSpecs"].append({"groupName": "more"}), "workerGroupSpecs: 2 items, not 1"),
        (lambda spec: spec["headGroupSpec"]["template"]["spec"]["containers"][0].update(image="x"), "[ray-head].image"),
        (lambda spec: spec["headGroupSpec"]["template"]["spec"]["containers"][0]["env"].clear(), "missing"),
        (lambda spec: spec.pop("authOptions"), "spec.authOptions"),
    ],
)
def test_a_change_by_another_writer_shows_as_drift(change: Any, named: str) -> None:
    actual = json.loads(json.dumps(rendered(Workers(min=0, max=4))))
    change(actual["spec"])
    assert named in raycluster.drift(actual)


def test_a_change_of_the_annotation_with_the_wanted_spec_shows_as_drift() -> None:
    actual = rendered()
    actual["metadata"]["annotations"][raycluster.ASKED] = "{}"
    assert "changed" in raycluster.drift(actual)
    del actual["metadata"]["annotations"][raycluster.ASKED]
    assert "missing" in raycluster.drift(actual)


def test_another_apply_keeps_the_autoscalers_number_of_workers_within_the_new_bounds_and_for_that_version_only() -> (
    None
):
    present = json.loads(json.dumps(rendered(Workers(min=0, max=8))))
    present["metadata"]["resourceVersion"] = "17"
    present["spec"]["workerGroupSpecs"][0] |= {"replicas": 5, "scaleStrategy": {"workersToDelete": ["a"]}}
    again = raycluster.keeping_scale(rendered(Workers(min=0, max=3)), raycluster.trim(present | {"status": {}}))
    (group,) = again["spec"]["workerGroupSpecs"]
    assert (group["replicas"], group["scaleStrategy"]) == (3, {"workersToDelete": ["a"]})
    assert again["metadata"]["resourceVersion"] == "17"


@pytest.mark.parametrize(
    ("wanted", "actual", "differs"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({"cpu": "1000m"}, {"cpu": "1"}, False),
        ({"memory": "1Gi"}, {"memory": "1024Mi"}, False),
        ({"memory": "1Gi"}, {"memory": "1G"}, True),
        ({"a": True}, {"a": 1}, True),
        ({"a": []}, {}, False),
        ({"a": [1]}, {}, True),
        ({"a": ["x", "y"]}, {"a": ["y", "x"]}, True),
        ({"subjects": [{"name": "a"}]}, {"subjects": [{"name": "a"}, {"name": "b"}]}, True),
        ({"env": [{"name": "A", "value": "1"}]}, {"env": [{"name": "B"}, {"name": "A", "value": "1"}]}, False),
    ],
)
def test_what_counts_as_a_difference(wanted: Any, actual: Any, differs: bool) -> None:
    assert bool(compare.drift(wanted, actual)) is differs
