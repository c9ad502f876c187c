"""`rayplane why` and `rayplane plan` against the real API over HTTP, with a fake backend."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayplane import errors
from rayplane.client.cli.why import parts
from rayplane.client.sdk import Client
from rayplane.gateway.backends.base import ClusterRef, Evidence
from rayplane.gateway.usecases.platform import Platform
from rayplane.testing.fakes import FakeBackend
from tests.unit.client.command import run
from tests.unit.gateway.api.served import platform_without_compute, serve

PULL = Evidence("pod", "pod/dev-head", "ErrImagePull", 'Failed to pull image "r/x:1": not found', count=3, node="head")
QUOTA = Evidence(
    "event", "raycluster/dev", "FailedToCreateWorkerPod", "exceeded quota: q, requested: a, used: b, limited: c",
    node="worker",
)  # fmt: skip


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    with platform_without_compute(tmp_path) as made:
        yield made


@pytest.fixture
def growth(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    with serve(platform) as url:
        monkeypatch.setenv("RAYPLANE_URL", url)
        monkeypatch.setenv("RAYPLANE_TOKEN_PATH", str(platform.settings.home_paths.token))
        monkeypatch.delenv("RAYPLANE_TEAM", raising=False)
        with Client() as client:
            client.teams.apply("growth", spec={})
            client.clusters.apply("growth", "dev", {})
            platform.store.set_status(
                client.teams.get("growth").metadata.uid, {"phase": "Ready", "observed_generation": 1}
            )
            yield client


def set_evidence(platform: Platform, *facts: Evidence, phase: str = "Starting") -> None:
    """Give the backend evidence about the cluster, and the cluster a phase, as if it had been reconciled."""
    backend = platform.readers("local")
    assert isinstance(backend, FakeBackend)
    cluster = platform.store.get("Cluster", "growth", "dev")
    backend.facts[ClusterRef("growth", "dev", cluster.metadata.uid)] = list(facts)
    platform.store.set_status(cluster.metadata.uid, {"phase": phase, "observed_generation": 1})


def test_why_answers_in_its_first_line_then_says_what_to_do(
    growth: Client, platform: Platform, capsys: pytest.CaptureFixture[str]
) -> None:
    set_evidence(platform, QUOTA, PULL)
    code, out, _ = run(capsys, "why", "growth/dev")
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == "The head of cluster 'growth/dev' can't start: its image 'r/x:1' is not there."
    assert lines[1].startswith("  do:   Push it")
    assert lines[2].startswith("  seen: pod/dev-head ErrImagePull, 3 times: Failed to pull")
    assert lines[3].startswith("Also: A worker of cluster 'growth/dev' does not fit into the ResourceQuota 'q'")


def test_why_as_json_is_the_explanation(growth: Client, platform: Platform, capsys: pytest.CaptureFixture[str]) -> None:
    set_evidence(platform, PULL)
    code, out, _ = run(capsys, "why", "growth/dev", "-o", "json")
    answer = json.loads(out)
    assert code == 0
    assert [cause["code"] for cause in answer["causes"]] == ["image-not-found"]
    assert answer["sentence"] == answer["causes"][0]["sentence"]
    assert growth.clusters.why("growth", "dev").model_dump(mode="json") == answer


def test_a_healthy_object_says_one_line(growth: Client, platform: Platform, capsys: pytest.CaptureFixture[str]) -> None:
    set_evidence(platform, phase="Ready")
    assert run(capsys, "why", "growth/dev")[:2] == (0, "Cluster 'growth/dev' is as wanted.\n")
    assert run(capsys, "cluster", "why", "dev")[1] == "Cluster 'growth/dev' is as wanted.\n"
    assert run(capsys, "why", "team/growth")[1] == "Team 'growth' is as wanted.\n"
    assert growth.teams.why("growth").causes == []


def test_every_noun_has_the_verb_why(growth: Client, capsys: pytest.CaptureFixture[str]) -> None:
    growth.datasets.apply("growth", "d", {})
    assert run(capsys, "why", "dataset/d")[1] == "Dataset 'growth/d' is as wanted.\n"
    assert run(capsys, "why", "growth/dataset/d")[1] == "Dataset 'growth/d' is as wanted.\n"
    for noun in ("team", "cluster", "job", "pipeline", "dataset", "feature", "model", "service"):
        code, _, stderr = run(capsys, noun, "why", "nothing", "--team", "growth")
        assert code == 4, f"{noun} why: {stderr}"


@pytest.mark.parametrize(
    ("target", "meant"),
    [
        ("dev", (None, "cluster", "dev")),
        ("growth/dev", ("growth", "cluster", "dev")),
        ("job/train", (None, "job", "train")),
        ("jobs/train", (None, "job", "train")),
        ("growth/service/delay", ("growth", "service", "delay")),
        ("team/growth", (None, "team", "growth")),
    ],
)
def test_a_target_of_why_is_parsed(target: str, meant: tuple[str | None, str, str]) -> None:
    assert parts(target) == meant


@pytest.mark.parametrize("target", ["", "/", "growth/", "a/b/c", "a/job/c/d"])
def test_a_target_of_why_that_can_not_be_parsed_is_refused(target: str) -> None:
    with pytest.raises(errors.InvalidInput, match="names nothing"):
        parts(target)


GOOD = """
kind: Cluster
metadata: {name: new}
spec: {size: medium}
---
kind: Cluster
metadata: {name: dev}
spec: {suspended: true}
"""
BAD = """
kind: Cluster
metadata: {name: new}
spec: {size: medum}
---
kind: Job
metadata: {name: j}
spec: {entrypoint: "true", cluster: new}
"""


def write(folder: Path, text: str) -> str:
    (folder / "spec.yaml").write_text(text)
    return str(folder / "spec.yaml")


def test_plan_prints_what_changes_and_what_it_costs_and_changes_nothing(
    growth: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "plan", "-f", write(tmp_path, GOOD))
    assert code == 0
    assert out.splitlines()[0] == "+ cluster growth/new"
    assert "    spec.size: medium" in out
    assert "    costs at most: 16 cores, 16 GiB until a user ends it" in out
    assert "~ cluster growth/dev" in out
    assert "    spec.suspended: False -> True" in out
    assert "    mind: Its compute is given back" in out
    assert "1 to make, 1 to change, 0 as it is. At most 16 cores, 16 GiB until a user ends it." in out
    assert [c.metadata.name for c in growth.clusters.list("growth")] == ["dev"]


def test_plan_prints_the_reasons_that_forbid_and_exits_with_their_code(
    growth: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, BAD)
    code, out, _ = run(capsys, "plan", "-f", path)
    assert code == errors.Refused.exit_code
    assert "    forbidden: cluster.size: team 'growth' has no size 'medum'." in out
    assert "      do: Did you mean 'medium'?" in out
    assert "1 of 2 documents forbidden" in out
    code, out, _ = run(capsys, "plan", "-f", path, "-o", "json")
    assert code == errors.Refused.exit_code
    assert [d["name"] for d in json.loads(out)["documents"] if d["forbidden"]] == ["new"]


def test_plan_accepts_a_package_that_is_a_folder(
    growth: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "train.py").write_text("print(1)\n")
    job = "kind: Job\nmetadata: {name: j}\nspec: {entrypoint: 'true', cluster: dev, package: code}\n"
    code, out, _ = run(capsys, "plan", "-f", write(tmp_path, job))
    assert (code, out.splitlines()[0]) == (0, "+ job growth/j")
    assert growth.jobs.list("growth") == []


def test_all_documents_of_the_reference_team_can_be_planned_on_an_empty_platform(
    growth: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "plan", "-f", str(Path(__file__).parents[3] / "jobs" / "flights.yaml"))
    assert code == 0, out
    made = [line for line in out.splitlines() if line.startswith("+ ")]
    assert made[:3] == ["+ team flights", "+ cluster flights/dev", "+ pipeline flights/flights"]
    assert "+ service flights/flight-delay" in made
    assert "At most 8 cores, 8 GiB" in out
    assert [team.metadata.name for team in growth.teams.list()] == ["growth"]


def test_a_plan_with_a_document_of_unknown_kind_is_refused_as_a_whole(
    growth: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, stderr = run(capsys, "plan", "-f", write(tmp_path, "kind: Custer\nmetadata: {name: c}\n"))
    assert (code, "'Custer' is unknown" in stderr) == (2, True)
