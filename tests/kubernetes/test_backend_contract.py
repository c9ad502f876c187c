"""The backend `kubernetes` against the contract of every backend, and what only it owes.

On a real API server with the real operator, as the gateway's own service account. Each call that the backend makes is
needed by a test here: test_mutations.py takes one away at a time and wants this module red.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rayplane.errors import Conflict
from rayplane.gateway.backends.base import Capability
from rayplane.gateway.backends.kubernetes.backend import KubernetesBackend
from rayplane.gateway.backends.kubernetes.kinds import RAYCLUSTER
from rayplane.nouns.cluster import Workers
from rayplane.testing.backend_contract import BackendCase, CreatingBackendContract
from tests.kubernetes import gateway
from tests.kubernetes.bed.api import wait_for
from tests.kubernetes.bed.level_a import LevelA


class TestKubernetes(CreatingBackendContract):
    @pytest.fixture(scope="class")
    def case(self, level_a: LevelA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackendCase]:
        home = tmp_path_factory.mktemp("home")
        with gateway.backend_on(gateway.install(level_a), home) as backend:
            case = gateway.case_on(level_a, backend, home)
            yield case
            gateway.remove(level_a.api, case.team)

    def test_it_declares_every_capability(self, case: BackendCase) -> None:
        assert case.backend.capabilities == frozenset(Capability), "what it does not declare is not tested here"


def test_a_namespace_that_the_platform_did_not_make_is_refused(
    level_a: LevelA, kubeconfig: Path, tmp_path: Path
) -> None:
    team, _ = gateway.refs()
    name = f"rayplane-{team.name}"
    level_a.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    with gateway.backend_on(kubeconfig, tmp_path) as backend, pytest.raises(Conflict, match="is not the platform's"):
        backend.teams.ensure(team, gateway.TEAM_SPEC)
    gateway.remove(level_a.api, team)


def test_another_gateway_reaches_a_cluster_by_its_token(level_a: LevelA, kubeconfig: Path, tmp_path: Path) -> None:
    with gateway.backend_on(kubeconfig, tmp_path / "one") as backend:
        case = gateway.case_on(level_a, backend, tmp_path / "one")
        case.until_nothing_is_missing(lambda: backend.teams.ensure(case.team, case.team_spec))
        case.ensure()
        before = case.until("ready")
        with gateway.backend_on(kubeconfig, tmp_path / "two") as other:
            state = other.clusters.observe(case.ref, case.spec)
            assert (state.phase, state.incarnation) == ("ready", before.incarnation)
            assert state.endpoint is not None
            assert before.endpoint is not None
            assert _text(state.endpoint.token_path) == _text(before.endpoint.token_path)
        gateway.remove(level_a.api, case.team)


def test_a_team_gets_a_volume_if_the_storage_root_is_on_a_file_system(
    level_a: LevelA, kubeconfig: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    volume = {"hostPath": {"path": str(root)}}
    with gateway.backend_on(kubeconfig, tmp_path, root=root.as_uri(), storage_volume=volume) as backend:
        case = gateway.case_on(level_a, backend, tmp_path)
        case.until_nothing_is_missing(lambda: backend.teams.ensure(case.team, case.team_spec))
        assert (root / case.team.name).is_dir()
        name = f"rayplane-{case.team.name}-storage"
        assert level_a.api.get("v1", "PersistentVolume", name) is not None
        case.ensure()
        case.until("ready")
        (head,) = gateway.pods_of(level_a.api, case.ref, "head")
        (mount,) = [m for m in head["spec"]["containers"][0]["volumeMounts"] if m["name"] == "storage"]
        assert mount["mountPath"] == f"{root}/{case.team.name}"
        backend.clusters.delete(case.ref)
        case.until("absent")
        case.patience = 90  # Kubernetes retries unbound claims four times a minute
        level_a.api.delete("v1", "PersistentVolumeClaim", "rayplane-storage", f"rayplane-{case.team.name}")
        wait_for("released", lambda: _phase_of_volume(level_a, name) == "Released", seconds=60)
        case.until_nothing_is_missing(lambda: backend.teams.ensure(case.team, case.team_spec))
        assert _phase_of_volume(level_a, name) == "Bound", "it waits for a claim that is gone no more"
        case.until_nothing_is_missing(lambda: backend.teams.delete(case.team))
        assert level_a.api.get("v1", "PersistentVolume", name) is None


def _phase_of_volume(level_a: LevelA, name: str) -> str:
    volume = level_a.api.get("v1", "PersistentVolume", name)
    return str(volume["status"].get("phase")) if volume is not None else ""


def test_a_team_whose_claim_an_admin_makes_waits_for_it(level_a: LevelA, kubeconfig: Path, tmp_path: Path) -> None:
    with gateway.backend_on(kubeconfig, tmp_path, root=(tmp_path / "root").as_uri()) as backend:
        case = gateway.case_on(level_a, backend, tmp_path)
        assert isinstance(backend, KubernetesBackend)
        wait_for("all but the claim", lambda: "PersistentVolumeClaim" in _missing(case), seconds=60)
        claim = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "rayplane-storage", "namespace": f"rayplane-{case.team.name}"},
            "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
        }
        level_a.api.create(claim)
        case.until_nothing_is_missing(lambda: _missing(case))
        case.patience = 90
        case.until_nothing_is_missing(lambda: backend.teams.delete(case.team))
        case.team = replace(case.team, uid=case.team.uid[::-1])
        wait_for("a new team needs one anew", lambda: "PersistentVolumeClaim" in _missing(case), seconds=90)
        gateway.remove(level_a.api, case.team)


def test_the_autoscalers_choice_survives_a_change_although_the_watch_has_not_reported_it(
    level_a: LevelA, kubeconfig: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gateway.backend_on(kubeconfig, tmp_path) as backend:
        case = gateway.case_on(level_a, backend, tmp_path)
        case.until_nothing_is_missing(lambda: backend.teams.ensure(case.team, case.team_spec))
        case.ensure()
        case.until("ready")
        monkeypatch.setattr(backend._cache[RAYCLUSTER], "_put", lambda *_: None)  # the cache gets no news any more
        gateway.autoscale(level_a.api, case.ref, 2)
        case.spec = case.spec.model_copy(update={"workers": Workers(min=0, max=5)})
        case.ensure()
        obj = level_a.api.get(gateway.RAY, "RayCluster", case.ref.name, f"rayplane-{case.team.name}")
        assert obj is not None
        (group,) = obj["spec"]["workerGroupSpecs"]
        assert (group["replicas"], group["maxReplicas"]) == (2, 5)
        gateway.remove(level_a.api, case.team)


def _missing(case: BackendCase) -> str:
    return case.teams.ensure(case.team, case.team_spec)


def _text(path: str | None) -> str:
    return Path(path or "").read_text()
