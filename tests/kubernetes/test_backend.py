"""The backend `kubernetes` beyond the contract: number of calls, failures that it survives, rights, isolation."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rayplane.errors import Conflict, Forbidden, Unavailable
from rayplane.gateway.backends.base import ClusterRef, TeamRef
from rayplane.gateway.backends.kubernetes import kinds, pods, raycluster
from rayplane.gateway.backends.kubernetes.api import KubeApi
from rayplane.gateway.backends.kubernetes.backend import KubernetesBackend
from rayplane.nouns.cluster import Workers
from rayplane.settings import write_secret
from rayplane.testing.backend_contract import BackendCase
from tests.kubernetes import gateway
from tests.kubernetes.bed.api import Api, ApiError, condition, wait_for
from tests.kubernetes.bed.level_a import LevelA

RAY = gateway.RAY
ENFORCE = "pod-security.kubernetes.io/enforce"


@pytest.fixture(scope="module")
def shared(level_a: LevelA, kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackendCase]:
    """One backend and one team for this module."""
    with gateway.placed(level_a, kubeconfig, tmp_path_factory.mktemp("home"), gateway.TEAM_SPEC) as case:
        yield case


@pytest.fixture
def case(level_a: LevelA, shared: BackendCase, request: pytest.FixtureRequest) -> Iterator[BackendCase]:
    """A cluster of its own for each test, in that team; ready, and deleted after it."""
    shared.ref = ClusterRef(shared.team.name, f"c{os.urandom(3).hex()}", os.urandom(16).hex())
    shared.ensure()
    shared.until("ready")
    yield shared
    shared.backend.clusters.delete(shared.ref)
    shared.until("absent")
    # The garbage collector needs a while to start again after an outage of the API server.
    wait_for("nothing left", lambda: not shared.leftovers(shared.ref), seconds=60)


def backend_of(case: BackendCase) -> KubernetesBackend:
    assert isinstance(case.backend, KubernetesBackend)
    return case.backend


def namespace_of(case: BackendCase) -> str:
    return f"rayplane-{case.team.name}"


def other_than_watches(backend: KubernetesBackend) -> int:
    """Number of API calls so far, without the opening of watches, which happens over time."""
    return sum(count for (verb, _), count in backend.api.calls.items() if verb != "watch")


# Number of calls


def test_fifty_observations_of_clusters_and_a_team_at_rest_make_no_call(case: BackendCase) -> None:
    backend = backend_of(case)
    case.ensure()
    before = other_than_watches(backend)
    for _ in range(50):
        assert case.observe().phase == "ready"
        case.ensure()
        assert backend.teams.ensure(case.team, case.team_spec) == ""
    assert other_than_watches(backend) == before


def test_a_new_cluster_takes_three_calls(shared: BackendCase) -> None:
    backend = backend_of(shared)
    shared.ref = ClusterRef(shared.team.name, "counted", os.urandom(16).hex())
    shared.observe()
    before = other_than_watches(backend)
    shared.ensure()
    assert other_than_watches(backend) == before + 3
    shared.until("ready")
    assert other_than_watches(backend) == before + 3
    backend.clusters.delete(shared.ref)
    shared.until("absent")
    assert other_than_watches(backend) == before + 4


# Repairs


def test_a_quota_that_an_admin_raised_is_repaired(level_a: LevelA, case: BackendCase) -> None:
    namespace = namespace_of(case)
    before = level_a.api.get("v1", "ResourceQuota", "rayplane", namespace)
    changed_uids: list[str] = []
    case.backend.subscribe(changed_uids.append)
    level_a.api.patch("v1", "ResourceQuota", "rayplane", {"spec": {"hard": {"requests.cpu": "9999"}}}, namespace)
    wait_for("told of the team", lambda: case.team.uid in changed_uids, seconds=60)

    def repaired() -> bool:
        assert case.teams.ensure(case.team, case.team_spec) == ""
        now = level_a.api.get("v1", "ResourceQuota", "rayplane", namespace)
        return bool(now and before and now["spec"] == before["spec"])

    wait_for("the quota put right", repaired, seconds=60)


def test_a_lost_secret_is_noticed_by_another_gateway_and_made_again(
    level_a: LevelA, kubeconfig: Path, case: BackendCase, tmp_path: Path
) -> None:
    level_a.api.delete("v1", "Secret", raycluster.secret_name(case.ref.name), namespace_of(case))
    with gateway.backend_on(kubeconfig, tmp_path) as successor:
        state = successor.clusters.observe(case.ref, case.spec)
        assert "Secret" in state.drift
        assert state.endpoint is None
        # Only its pods know the token of its Ray now, so the platform must replace the cluster.
        other = BackendCase(successor, case.ref, spec=case.spec, launch=case.launch, patience=60)

        def whole() -> bool:
            other.ensure()
            now = other.observe()
            return now.phase == "ready" and not now.drift and now.endpoint is not None

        wait_for("made again", whole, seconds=60)
        assert other.observe().incarnation != state.incarnation


def test_a_renewed_token_is_in_the_secret_that_its_pods_mount_and_they_stay(level_a: LevelA, case: BackendCase) -> None:
    backend, before, ray = backend_of(case), case.observe(), _token_in_the_secret(level_a, case)
    renewed = {**case.launch.secrets, "RAYPLANE_TOKEN_PATH": "another-token"}
    calls = other_than_watches(backend)
    backend.clusters.renew(case.ref, case.launch.secrets)
    assert other_than_watches(backend) == calls  # it has these
    backend.clusters.renew(case.ref, renewed)
    assert other_than_watches(backend) == calls + 3
    for _ in range(50):
        backend.clusters.renew(case.ref, renewed)
    assert other_than_watches(backend) == calls + 3
    secret = level_a.api.get("v1", "Secret", raycluster.secret_name(case.ref.name), namespace_of(case))
    assert secret is not None
    assert base64.b64decode(secret["data"]["RAYPLANE_TOKEN_PATH"]).decode() == "another-token"
    assert _token_in_the_secret(level_a, case) == ray
    after = case.observe()
    assert (after.phase, after.incarnation, after.drift) == ("ready", before.incarnation, "")
    # What a kubelet brings up to date is a mounted Secret, but for a part of it (subPath) or a variable made of it.
    for pod in gateway.pods_of(level_a.api, case.ref, "head"):
        (volume,) = [v["name"] for v in pod["spec"]["volumes"] if "secret" in v and v["name"] == "secrets"]
        ray_container = pod["spec"]["containers"][0]
        mounts = [mount for mount in ray_container["volumeMounts"] if mount["name"] == volume]
        assert [mount.get("subPath") for mount in mounts] == [None]
        assert not [e for e in ray_container["env"] if e["name"] == "RAYPLANE_TOKEN_PATH" and "valueFrom" in e]


def test_a_token_that_can_not_be_renewed_is_unavailable_and_is_renewed_later(
    case: BackendCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = backend_of(case)
    renewed = {**case.launch.secrets, "RAYPLANE_TOKEN_PATH": "another-token"}

    def away(*_: Any, **__: Any) -> Any:
        raise Unavailable("The API server does not answer.")

    with monkeypatch.context() as patch:
        patch.setattr(backend.api, "apply", away)
        with pytest.raises(Unavailable):
            backend.clusters.renew(case.ref, renewed)
    calls = other_than_watches(backend)
    backend.clusters.renew(case.ref, renewed)
    assert other_than_watches(backend) == calls + 3


def test_a_secret_that_was_deleted_during_suspension_is_made_before_the_pods(
    level_a: LevelA, case: BackendCase
) -> None:
    before = _token_in_the_secret(level_a, case)
    case.suspend()
    case.until("suspended")
    level_a.api.delete("v1", "Secret", raycluster.secret_name(case.ref.name), namespace_of(case))
    case.ensure()
    case.until("ready")
    assert _token_in_the_secret(level_a, case) == before, "the gateway still has it"


def test_suspending_changes_one_field_and_takes_one_call(level_a: LevelA, case: BackendCase) -> None:
    case.ensure()
    before = level_a.api.get(RAY, "RayCluster", case.ref.name, namespace_of(case))
    calls = other_than_watches(backend_of(case))
    case.suspend()
    case.suspend()
    assert other_than_watches(backend_of(case)) == calls + 1
    after = level_a.api.get(RAY, "RayCluster", case.ref.name, namespace_of(case))
    assert before is not None
    assert after is not None
    assert after["spec"] == {**before["spec"], "suspend": True}
    case.until("suspended")
    case.ensure()
    case.until("ready")


def test_the_autoscalers_choice_survives_a_change_of_the_spec_in_either_order(
    level_a: LevelA, case: BackendCase
) -> None:
    case.spec = gateway.SPEC
    for workers in (1, 2, 3, 2, 1):
        gateway.autoscale(level_a.api, case.ref, workers)
        case.spec = case.spec.model_copy(update={"workers": Workers(min=0, max=3 + workers)})
        for _ in range(20):
            try:
                case.ensure()
                break
            except Conflict:  # the autoscaler was faster than the watch: try again
                time.sleep(0.05)
        obj = level_a.api.get(RAY, "RayCluster", case.ref.name, namespace_of(case))
        assert obj is not None
        (group,) = obj["spec"]["workerGroupSpecs"]
        assert (group["replicas"], group["maxReplicas"]) == (workers, 3 + workers)
    case.spec = gateway.SPEC
    case.until_observed(lambda seen: seen.phase == "ready", "ready")


def test_a_raycluster_that_a_user_made_is_not_taken_over(level_a: LevelA, shared: BackendCase) -> None:
    namespace = namespace_of(shared)
    strange = {
        "apiVersion": RAY,
        "kind": "RayCluster",
        "metadata": {"name": "strange", "namespace": namespace},
        "spec": {
            "rayVersion": "2.50.0",
            "headGroupSpec": {
                "rayStartParams": {},
                "template": {"spec": {"containers": [{"name": "x", "image": "y"}]}},
            },
        },
    }
    level_a.api.create(strange)
    shared.ref = ClusterRef(shared.team.name, "strange", os.urandom(16).hex())
    with pytest.raises(Conflict, match="strange"):
        shared.ensure()
    level_a.api.delete(RAY, "RayCluster", "strange", namespace)


def test_an_earlier_cluster_of_the_same_name_is_deleted_first(level_a: LevelA, case: BackendCase) -> None:
    backend, old = backend_of(case), case.ref
    new = ClusterRef(old.team, old.name, os.urandom(16).hex())
    assert backend.clusters.observe(new, case.spec).phase == "absent"

    def came() -> bool:
        backend.clusters.ensure(new, case.spec, case.launch)
        return backend.clusters.observe(new, case.spec).phase == "ready"

    wait_for("the successor ready", came, seconds=60, every=0.2)
    assert backend.clusters.observe(old, case.spec).phase == "absent"
    assert {obj["metadata"]["labels"][kinds.UID] for obj in gateway.pods_of(level_a.api, new, "head")} == {new.uid}
    case.ref = new


def test_a_head_failure_is_reported_although_the_operator_replaced_the_head(level_a: LevelA, case: BackendCase) -> None:
    before = case.until("ready")
    assert case.crash is not None
    case.crash(case.ref)
    wait_for("another head", lambda: _another_head(level_a.api, case, before.incarnation), seconds=60)
    state = case.until("failed")
    assert state.reason == "OOMKilled"
    assert "exit code 137" in state.message
    after = case.until_mended(before)
    gone = [node for node in after.nodes if node.id == before.incarnation]
    assert [node.ended_at is not None for node in gone] == [True]


# Failures that it survives


def test_an_expired_watch_lists_again_and_misses_nothing(level_a: LevelA, case: BackendCase) -> None:
    before = case.until("ready")
    level_a.expire_watches()
    assert case.crash is not None
    case.crash(case.ref)
    state = case.until_observed(
        lambda state: state.phase == "failed" or state.incarnation != before.incarnation, "noticed"
    )
    assert state.phase == "failed"
    case.until_mended(before)


def test_without_the_api_server_observations_raise_unavailable_and_then_resume(
    level_a: LevelA, case: BackendCase
) -> None:
    before = case.until("ready")
    level_a.stop("kube-apiserver", grace=0)  # a slow stop would use up the backend's patience
    with level_a.without("kube-apiserver"):
        away_until = time.monotonic() + 60
        assert case.observe() == before, "within its patience the backend still relies on the cache"
        wait_for("what was seen is too old", lambda: not _seen(case), seconds=60)
        with pytest.raises(Unavailable, match="rayclusters"):
            case.observe()
        acts: list[Callable[[], object]] = [lambda: case.backend.clusters.delete(case.ref), case.ensure, case.suspend]
        for act in acts:
            with pytest.raises(Unavailable):
                act()
        with pytest.raises(Unavailable):
            case.teams.ensure(case.team, case.team_spec)
        time.sleep(max(0.0, away_until - time.monotonic()))
    case.patience = 120  # the other components too may wait this long before they retry the API server
    wait_for("seen again", lambda: _seen(case), seconds=60)
    assert case.until("ready").incarnation == before.incarnation


def test_the_backend_survives_a_restart_of_etcd(level_a: LevelA, case: BackendCase) -> None:
    before = case.until("ready")
    level_a.restart("etcd")
    wait_for("seen again", lambda: _seen(case), seconds=60)
    assert case.until("ready").incarnation == before.incarnation
    gateway.change_json(level_a.api, case.ref, [{"op": "replace", "path": "/spec/rayVersion", "value": "2.61.0"}])
    case.until_observed(lambda seen: seen.drift != "", "drifted")
    case.ensure()
    case.until_observed(lambda seen: seen.drift == "", "put right")


def test_a_cluster_that_was_made_without_an_operator_starts_once_there_is_one(
    level_a: LevelA, shared: BackendCase
) -> None:
    shared.ref = ClusterRef(shared.team.name, "waits", os.urandom(16).hex())
    with level_a.without("ray-operator"):
        shared.ensure()
        time.sleep(1)
        state = shared.observe()
        assert (state.phase, state.reason) == ("starting", "NotSeen")
        assert "operator" in state.message
    shared.until("ready")
    shared.backend.clusters.delete(shared.ref)
    shared.until("absent")


def test_a_gateway_that_is_killed_between_any_two_calls_leaves_nothing_half_made(
    level_a: LevelA, kubeconfig: Path, shared: BackendCase, tmp_path: Path
) -> None:
    """It is killed before its n-th call, then before every later one; its successor finishes, and then deletes."""
    for act in ("ensure", "suspend", "delete"):
        for calls in range(5):
            ref = ClusterRef(shared.team.name, f"k{act[0]}{calls}", os.urandom(16).hex())
            shared.ref = ref
            if act != "ensure":
                shared.ensure()
                shared.until("ready")
            home = tmp_path / f"{act}{calls}"
            with gateway.backend_on(kubeconfig, home) as doomed:
                its = BackendCase(doomed, ref, spec=shared.spec, launch=shared.launch)
                its.patience = 60
                its.until_observed(lambda _: True, "heard of")
                acts: dict[str, Callable[[], object]] = {
                    "ensure": its.ensure,
                    "suspend": its.suspend,
                    "delete": partial(doomed.clusters.delete, ref),
                }
                finished = gateway.killed_before(calls, doomed, acts[act])
            with gateway.backend_on(kubeconfig, home) as successor:
                other = BackendCase(successor, ref, spec=shared.spec, launch=shared.launch, patience=120)
                if act == "ensure":
                    other.ensure()
                    state = other.until_observed(
                        lambda state: state.phase == "ready" and not state.drift, "ready, whole"
                    )
                    assert state.endpoint is not None
                elif act == "suspend":
                    other.suspend()
                    other.until("suspended")
                other.backend.clusters.delete(ref)
                other.until("absent")
            wait_for(
                "nothing left", lambda: list(shared.leftovers(shared.ref)) == _files(shared, shared.ref), seconds=60
            )
            if finished:
                break
        else:
            pytest.fail(f"{act} makes more calls than were tried")


def test_a_gateway_that_is_killed_while_it_makes_or_deletes_a_teams_namespace_leaves_nothing_half_made(
    level_a: LevelA, kubeconfig: Path, shared: BackendCase, tmp_path: Path
) -> None:
    """It is killed before its n-th call, then before every later one; another one finishes, and then deletes."""
    made: list[TeamRef] = []
    finished = False
    whole = len(gateway.place_of(level_a.api, shared.team))
    while not finished:
        assert len(made) < 20, "it makes more calls than were tried"
        team = gateway.refs()[0]
        made.append(team)
        with gateway.backend_on(kubeconfig, tmp_path / team.name) as doomed:
            its = BackendCase(doomed, shared.ref, patience=60)
            its.until_nothing_is_missing(partial(doomed.teams.delete, team))  # its cache is up to date
            making = partial(doomed.teams.ensure, team, shared.team_spec)
            finished = gateway.killed_before(len(made) - 1, doomed, partial(its.until_nothing_is_missing, making))
        shared.until_nothing_is_missing(partial(shared.teams.ensure, team, shared.team_spec))
        assert len(gateway.place_of(level_a.api, team)) == whole
    assert len(made) > 5, "each object of the place is a call of its own"
    with gateway.backend_on(kubeconfig, tmp_path / "last") as doomed:
        its = BackendCase(doomed, shared.ref, patience=60)
        its.until_nothing_is_missing(partial(doomed.teams.ensure, made[0], shared.team_spec))
        assert not gateway.killed_before(0, doomed, partial(doomed.teams.delete, made[0]))
    for team in made:
        shared.teams.delete(team)
    for team in made:
        shared.until_nothing_is_missing(partial(shared.teams.delete, team))
        assert gateway.place_of(level_a.api, team) == []


def test_redis_is_emptied_before_a_cluster_with_tables_in_it_is_gone(
    level_a: LevelA, kubeconfig: Path, tmp_path: Path
) -> None:
    password = tmp_path / "password"
    write_secret(password, "redis-secret")
    redis = {"redis_address": "redis.test:6379", "redis_password_path": str(password)}
    with gateway.backend_on(kubeconfig, tmp_path, **redis) as backend:
        case = gateway.case_on(level_a, backend, tmp_path)
        case.until_nothing_is_missing(lambda: backend.teams.ensure(case.team, case.team_spec))
        case.ensure()
        case.until("ready")
        (obj,) = level_a.api.list(RAY, "RayCluster", namespace_of(case))
        assert obj["metadata"]["finalizers"] == ["ray.io/gcs-ft-redis-cleanup-finalizer"]
        assert "redis-secret" not in str(obj)
        backend.clusters.delete(case.ref)
        case.until_observed(lambda seen: "finalizer" in seen.message or seen.phase == "absent", "waiting for Redis")
        case.until("absent")
        wait_for("nothing left", lambda: not case.leftovers(case.ref), seconds=60)
        backend.teams.delete(case.team)


# Rights and isolation


def test_a_foreign_pod_with_a_clusters_labels_is_not_taken_for_its_head(level_a: LevelA, case: BackendCase) -> None:
    before = case.until("ready")
    (head,) = gateway.pods_of(level_a.api, case.ref, "head")
    stranger = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "stranger", "namespace": "default", "labels": head["metadata"]["labels"]},
        "spec": {"containers": [{"name": "ray-head", "image": "x"}]},
    }
    changed_uids: list[str] = []
    case.backend.subscribe(changed_uids.append)
    level_a.api.create(stranger)
    try:
        wait_for("it runs", lambda: _is_ready(level_a.api.get("v1", "Pod", "stranger", "default")), seconds=60)
        wait_for("the backend heard of it", lambda: case.ref.uid in changed_uids, seconds=60)
        assert case.observe() == before
    finally:
        level_a.api.delete("v1", "Pod", "stranger", "default", grace=0)
    wait_for("it is gone", lambda: level_a.api.get("v1", "Pod", "stranger", "default") is None, seconds=60)
    assert case.observe() == before


def test_the_gateways_role_has_no_right_that_it_does_not_use(
    level_a: LevelA, kubeconfig: Path, case: BackendCase
) -> None:
    with Api(kubeconfig) as mine:
        for forbidden in (
            lambda: mine.list("v1", "Secret"),
            lambda: mine.list("v1", "Secret", "kube-system"),
            lambda: mine.get("v1", "Secret", "any", "kuberay"),
            lambda: mine.delete("v1", "Pod", "any", namespace_of(case)),
            lambda: mine.create(_binding(namespace_of(case), "cluster-admin")),
            lambda: mine.create(_binding("kube-system", "rayplane-gateway-team")),
            lambda: mine.create(_namespace("kube-mine")),
            lambda: mine.create(_namespace("rayplane-open")),
            lambda: mine.patch("v1", "Namespace", namespace_of(case), {"metadata": {"labels": {ENFORCE: "baseline"}}}),
            lambda: mine.create(_volume("others", namespace_of(case))),
            lambda: mine.create(_volume("rayplane-x-storage", "kube-system")),
            lambda: mine.list("apps/v1", "Deployment"),
            lambda: mine.delete("v1", "Namespace", "kuberay"),
        ):
            with pytest.raises(ApiError) as refusal:
                forbidden()
            assert refusal.value.status in (403, 422), refusal.value


def test_a_missing_right_of_the_gateway_is_named_with_the_remedy(level_a: LevelA) -> None:
    level_a.api.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody", "namespace": "default"}}
    )
    api = KubeApi(level_a.kubeconfig_for("nobody", "default"))
    with pytest.raises(Forbidden, match=r"may not list rayclusters\.ray\.io.*deploy/kubernetes/gateway-role\.yaml"):
        api.list(kinds.RAYCLUSTER)
    api.close()


def test_a_privileged_pod_is_refused_in_a_teams_namespace(level_a: LevelA, case: BackendCase) -> None:
    container = {"name": "bad", "image": "x", "securityContext": {"privileged": True}}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "bad", "namespace": namespace_of(case)},
        "spec": {"containers": [container]},
    }
    with pytest.raises(ApiError) as refusal:
        level_a.api.create(pod)
    assert refusal.value.status == 403
    assert "violates PodSecurity" in str(refusal.value)


def test_a_teams_accounts_reach_nothing_of_another_team(level_a: LevelA, case: BackendCase) -> None:
    backend = backend_of(case)
    other, _ = gateway.refs()
    case.until_nothing_is_missing(lambda: backend.teams.ensure(other, case.team_spec))
    mine, theirs = namespace_of(case), f"rayplane-{other.name}"
    for account in ("rayplane-team", case.ref.name):  # the pods', and the autoscaler's, which KubeRay makes
        with Api(level_a.kubeconfig_for(account, mine)) as theirs_api:
            for verb, group, resource in (
                ("list", "", "pods"),
                ("get", "", "secrets"),
                ("create", "", "pods"),
                ("patch", "ray.io", "rayclusters"),
                ("get", "ray.io", "rayclusters"),
                ("list", "", "services"),
            ):
                assert not _allowed(theirs_api, verb, group, resource, theirs), f"{account}: {verb} {resource}"
            for attempt in _attempts(theirs_api, theirs):
                with pytest.raises(ApiError) as refusal:
                    attempt()
                assert refusal.value.status == 403
            # The autoscaler's rights in its own namespace prove that the question is asked correctly.
            assert _allowed(theirs_api, "patch", "ray.io", "rayclusters", mine) is (account == case.ref.name)
    case.until_nothing_is_missing(lambda: backend.teams.delete(other))


def test_a_member_may_read_the_objects_of_their_team_and_change_none(level_a: LevelA, case: BackendCase) -> None:
    mine = namespace_of(case)
    review = {"user": "ada", "resourceAttributes": {"namespace": mine, "group": "ray.io", "resource": "rayclusters"}}
    for verb, allowed in (("get", True), ("patch", False), ("delete", False)):
        asked = {**review, "resourceAttributes": {**review["resourceAttributes"], "verb": verb}}  # type: ignore[dict-item]
        answer = level_a.api.request(
            "POST",
            "/apis/authorization.k8s.io/v1/subjectaccessreviews",
            json={"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": asked},
        )
        assert answer["status"].get("allowed", False) is allowed


def test_a_foreign_namespace_is_not_taken_over(level_a: LevelA, shared: BackendCase) -> None:
    team, _ = gateway.refs()
    level_a.api.create(_namespace(f"rayplane-{team.name}"))
    with pytest.raises(Conflict, match="is not the platform's"):
        shared.teams.ensure(team, shared.team_spec)
    assert shared.teams.delete(team) == ""
    assert level_a.api.get("v1", "Namespace", f"rayplane-{team.name}") is not None
    gateway.remove(level_a.api, team)


def test_a_namespace_that_an_admin_handed_over_keeps_its_objects(level_a: LevelA, shared: BackendCase) -> None:
    team, _ = gateway.refs()
    name = f"rayplane-{team.name}"
    level_a.api.create(_namespace(name))
    level_a.api.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "precious", "namespace": name}})
    before = level_a.api.get("v1", "Namespace", name)
    level_a.api.patch("v1", "Namespace", name, {"metadata": {"labels": {kinds.MANAGED_BY: kinds.MANAGER}}})
    shared.until_nothing_is_missing(lambda: shared.teams.ensure(team, shared.team_spec))
    after = level_a.api.get("v1", "Namespace", name)
    assert before is not None
    assert after is not None
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["metadata"]["labels"][kinds.UID] == team.uid
    assert level_a.api.get("v1", "ConfigMap", "precious", name) is not None
    shared.until_nothing_is_missing(lambda: shared.teams.delete(team))


def test_a_team_of_the_same_name_waits_until_the_earlier_teams_namespace_is_gone(
    level_a: LevelA, shared: BackendCase
) -> None:
    old, _ = gateway.refs()
    new = TeamRef(old.name, os.urandom(16).hex())
    teams = shared.teams
    shared.until_nothing_is_missing(lambda: teams.ensure(old, shared.team_spec))
    assert "earlier team" in teams.ensure(new, shared.team_spec)
    shared.until_nothing_is_missing(lambda: teams.ensure(new, shared.team_spec))
    assert gateway.place_of(level_a.api, new)
    shared.until_nothing_is_missing(lambda: teams.delete(new))


def _files(case: BackendCase, ref: ClusterRef) -> list[object]:
    """Token file that the module's own gateway still has of a cluster that another gateway deleted."""
    return [leftover for leftover in case.leftovers(ref) if isinstance(leftover, Path)]


def _another_head(api: Api, case: BackendCase, incarnation: str | None) -> bool:
    return any(pod["metadata"]["uid"] != incarnation for pod in gateway.pods_of(api, case.ref, "head"))


def _is_ready(pod: dict[str, Any] | None) -> bool:
    return condition(pod, "Ready") == "True"


def _seen(case: BackendCase) -> bool:
    try:
        return bool(case.observe())
    except Unavailable:
        return False


def _allowed(api: Api, verb: str, group: str, resource: str, namespace: str) -> bool:
    asked = {"verb": verb, "group": group, "resource": resource, "namespace": namespace}
    answer = api.request(
        "POST",
        "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
        json={
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": asked},
        },
    )
    return bool(answer["status"]["allowed"])


def _attempts(api: Api, namespace: str) -> list[Callable[[], object]]:
    return [
        lambda: api.list("v1", "Pod", namespace),
        lambda: api.list("v1", "Secret", namespace),
        lambda: api.get(RAY, "RayCluster", "dev", namespace),
        lambda: api.delete(RAY, "RayCluster", "dev", namespace),
    ]


def _binding(namespace: str, role: str) -> dict[str, Any]:
    return {
        "apiVersion": gateway.RBAC,
        "kind": "RoleBinding",
        "metadata": {"name": "more", "namespace": namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": "rayplane-gateway", "namespace": "rayplane"}],
    }


def _volume(name: str, namespace: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteMany"],
            "claimRef": {"namespace": namespace, "name": "any"},
            "hostPath": {"path": "/"},
        },
    }


def _token_in_the_secret(level_a: LevelA, case: BackendCase) -> str:
    secret = level_a.api.get("v1", "Secret", raycluster.secret_name(case.ref.name), namespace_of(case))
    assert secret is not None
    return str(secret["data"][pods.AUTH_TOKEN])


def _namespace(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
