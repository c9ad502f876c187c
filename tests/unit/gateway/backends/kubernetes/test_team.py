"""The rendered objects of a team."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from rayplane.gateway.backends.base import TeamRef
from rayplane.gateway.backends.kubernetes import compare, team
from rayplane.gateway.backends.kubernetes.kinds import NAMESPACE, NETWORK_POLICY, QUOTA, ROLE_BINDING, VOLUME, Kind
from rayplane.gateway.backends.kubernetes.settings import KubernetesSettings
from rayplane.nouns.team import Quota, Size, TeamSpec

REF = TeamRef(name="growth", uid="0123456789abcdef0123456789abcdef")
SETTINGS = KubernetesSettings()
METADATA = ["169.254.0.0/16", "168.63.129.16/32", "100.100.100.200/32"]
SIZES = {"small": Size(cpu=2, memory=4 * 2**30)}


def placed(
    spec: TeamSpec | None = None, settings: KubernetesSettings = SETTINGS, root: str = "s3://b"
) -> list[team.Wanted]:
    return team.place(REF, spec or TeamSpec(sizes=SIZES), settings, root)


def one(kind: Kind, name: str, wanted: list[team.Wanted]) -> dict[str, Any]:
    (manifest,) = [w.manifest for w in wanted if w.kind == kind and w.manifest["metadata"]["name"] == name]
    return manifest


def test_the_namespace_comes_first_then_the_gateways_rights_in_it() -> None:
    wanted = placed()
    assert [w.kind for w in wanted[:2]] == [NAMESPACE, ROLE_BINDING]
    assert {w.manifest["metadata"].get("namespace") for w in wanted[1:]} == {"rayplane-growth"}
    (subject,) = wanted[1].manifest["subjects"]
    assert (subject["name"], subject["namespace"]) == ("rayplane-gateway", "rayplane")


def test_the_namespace_enforces_the_profile_restricted() -> None:
    labels = one(NAMESPACE, "rayplane-growth", placed())["metadata"]["labels"]
    assert {labels[f"pod-security.kubernetes.io/{mode}"] for mode in ("enforce", "audit", "warn")} == {"restricted"}


@pytest.mark.parametrize(
    ("quota", "hard"),
    [
        (Quota(), {}),
        (Quota(cpu=8, memory=2**35, clusters=2), {"requests.cpu": "8500m", "requests.memory": "33Gi"}),
        # Eight cores hold four heads of two, each with an autoscaler of a quarter of a core beside it.
        (Quota(cpu=8), {"requests.cpu": "9"}),
        (Quota(gpu=3), {"requests.nvidia.com/gpu": "3"}),
    ],
)
def test_the_resource_quota_is_the_teams_plus_the_autoscalers_share(quota: Quota, hard: dict[str, str]) -> None:
    manifest = one(QUOTA, "rayplane", placed(TeamSpec(sizes=SIZES, quota=quota)))
    assert manifest["spec"]["hard"] == hard


def test_a_removed_limit_is_a_difference() -> None:
    limited = one(QUOTA, "rayplane", placed(TeamSpec(sizes=SIZES, quota=Quota(cpu=8))))
    free = one(QUOTA, "rayplane", placed())
    assert compare.drift(free, limited)
    assert compare.drift(limited, limited) == ""


def test_members_are_bound_by_their_kubernetes_user_name() -> None:
    spec = TeamSpec(sizes=SIZES, members={"ada": "admin", "bob": "viewer"})
    binding = one(ROLE_BINDING, "rayplane-members", placed(spec, KubernetesSettings(user_prefix="oidc:")))
    assert [subject["name"] for subject in binding["subjects"]] == ["oidc:ada", "oidc:bob"]


def test_all_traffic_is_denied_but_that_which_ray_needs() -> None:
    deny = one(NETWORK_POLICY, "rayplane-deny", placed())["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    ingress = one(NETWORK_POLICY, "rayplane-ray", placed())["spec"]["ingress"]
    own, gateway, operator = ingress
    assert own == {"from": [{"podSelector": {}}]}
    assert [port["port"] for port in gateway["ports"]] == [8265, 10001, 8000, 8080, 52365]
    assert [port["port"] for port in operator["ports"]] == [8265, 8000]
    with_prometheus = KubernetesSettings(monitoring_namespace="monitoring", ingress_namespace="ingress")
    assert len(one(NETWORK_POLICY, "rayplane-ray", placed(settings=with_prometheus))["spec"]["ingress"]) == 5


def test_egress_excludes_the_clouds_metadata_addresses() -> None:
    settings = KubernetesSettings(egress=["0.0.0.0/0", "10.0.0.0/8", "fd00::/8"])
    egress = one(NETWORK_POLICY, "rayplane-ray", placed(settings=settings))["spec"]["egress"]
    blocks = [rule["to"][0]["ipBlock"] for rule in egress if "ipBlock" in rule["to"][0]]
    assert [{"ipBlock": {"cidr": "169.254.20.10/32"}} in rule["to"] for rule in egress if "ports" in rule] == [True], (
        "a DNS on the node itself is asked, all the same"
    )
    assert blocks == [{"cidr": "0.0.0.0/0", "except": METADATA}, {"cidr": "10.0.0.0/8"}, {"cidr": "fd00::/8"}]
    for block in blocks:
        whole = ipaddress.ip_network(block["cidr"])
        assert all(ipaddress.ip_network(cut).subnet_of(whole) for cut in block.get("except", []))  # type: ignore[arg-type]


def test_a_storage_root_on_a_file_system_gives_the_team_a_volume_and_a_claim() -> None:
    settings = KubernetesSettings(storage_volume={"hostPath": {"path": "/srv"}})
    wanted = placed(settings=settings, root="file:///srv")
    volume = one(VOLUME, "rayplane-growth-storage", wanted)
    assert volume["spec"]["hostPath"] == {"path": "/srv"}
    assert volume["spec"]["claimRef"]["namespace"] == "rayplane-growth"
    assert "namespace" not in volume["metadata"]
    assert not [w for w in placed(settings=settings, root="s3://b") if w.kind == VOLUME]
    assert not [w for w in placed(root="file:///srv") if w.kind == VOLUME]


def test_a_teams_volume_may_be_its_own_folder() -> None:
    settings = KubernetesSettings(storage_volume={"nfs": {"server": "files.test", "path": "/srv/{team}"}})
    volume = one(VOLUME, "rayplane-growth-storage", placed(settings=settings, root="file:///srv"))
    assert volume["spec"]["nfs"] == {"server": "files.test", "path": "/srv/growth"}
    assert settings.has_a_volume_for_each_team
    assert not KubernetesSettings(storage_volume={"hostPath": {"path": "/srv"}}).has_a_volume_for_each_team


def test_closed_egress_still_lets_the_autoscaler_reach_the_api_server() -> None:
    settings = KubernetesSettings(egress=[], api_server=["10.96.0.1/32", "192.0.2.7/32"])
    egress = one(NETWORK_POLICY, "rayplane-ray", placed(settings=settings))["spec"]["egress"]
    (rule,) = [rule for rule in egress if {"ipBlock": {"cidr": "10.96.0.1/32"}} in rule["to"]]
    assert [port["port"] for port in rule["ports"]] == [443, 6443]
    closed = one(NETWORK_POLICY, "rayplane-ray", placed(settings=KubernetesSettings(egress=[])))["spec"]["egress"]
    assert len(closed) == 3, "its own pods, the DNS, the gateway"


def _opened(rule: dict[str, Any]) -> dict[str, Any]:
    policy = one(NETWORK_POLICY, "rayplane-ray", placed())
    return {**policy, "spec": {**policy["spec"], "ingress": [rule, *policy["spec"]["ingress"][1:]]}}


@pytest.mark.parametrize(
    "rule",
    [
        {"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]},
        {"from": [{"podSelector": {}, "namespaceSelector": {}}]},
        {"from": []},
        {},
    ],
)
def test_a_network_policy_that_allows_more_than_wanted_has_drifted(rule: dict[str, Any]) -> None:
    wanted = one(NETWORK_POLICY, "rayplane-ray", placed())
    assert compare.drift(wanted, wanted, exact=["spec"]) == ""
    assert compare.drift(wanted, _opened(rule), exact=["spec"])
