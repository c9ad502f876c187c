"""`rayplane why` and `rayplane plan` on a real local platform, with a head that is killed and a job that fails."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rayplane.processes import read_json
from tests.support.local_platform import LocalPlatform, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TEAM = """
kind: Team
metadata: {name: curious}
spec: {sizes: {small: {cpu: 2, memory: 2Gi}, vast: {cpu: 2, memory: 900Ti}}}
"""
MORE = """
kind: Cluster
metadata: {name: more, team: curious}
spec: {size: small, max_lifetime: 30m}
---
kind: Cluster
metadata: {name: vast, team: curious}
spec: {size: vast}
---
kind: Job
metadata: {name: first, team: curious}
spec: {entrypoint: "true", cluster: more}
"""


@pytest.fixture(scope="module")
def curious(platform_up: LocalPlatform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPlatform]:
    """The platform with a team that has one ready cluster."""
    team = tmp_path_factory.mktemp("curious") / "team.yaml"
    team.write_text(TEAM)
    platform_up.rayplane("apply", "-f", str(team))
    platform_up.rayplane("cluster", "create", "dev", "--team", "curious", timeout=400)
    yield platform_up
    platform_up.rayplane("cluster", "delete", "dev", "--team", "curious", timeout=400)
    platform_up.rayplane("team", "delete", "curious", timeout=120)


def why(platform: LocalPlatform, target: str) -> Any:
    """The explanation that the command prints as JSON."""
    return json.loads(platform.rayplane("why", target, "--team", "curious", "-o", "json").stdout)


def codes(answer: Any) -> list[str]:
    return [cause["code"] for cause in answer["causes"]]


def test_a_ready_cluster_says_one_line(curious: LocalPlatform) -> None:
    assert curious.rayplane("why", "curious/dev").stdout == "Cluster 'curious/dev' is as wanted.\n"


def test_why_of_a_failed_job_has_its_exit_code_and_the_end_of_its_log(curious: LocalPlatform) -> None:
    script = "import sys; print('There are no rows.', flush=True); sys.exit(3)"
    submit = ("job", "submit", "--cluster", "dev", "--name", "fails", "--team", "curious")
    done = curious.rayplane(*submit, "--", "python", "-c", script, timeout=300, check=False)
    assert done.returncode == 3
    answer = why(curious, "job/fails")
    assert codes(answer) == ["job-failed"]
    assert "failed with exit code 3" in answer["sentence"]
    assert "There are no rows." in answer["causes"][0]["evidence"][-1]["message"]


def test_plan_names_the_resources_that_this_host_lacks_and_writes_nothing(
    curious: LocalPlatform, tmp_path: Path
) -> None:
    (tmp_path / "more.yaml").write_text(MORE)
    done = curious.rayplane("plan", "-f", str(tmp_path / "more.yaml"), check=False)
    assert done.returncode == 6
    assert "+ cluster curious/more" in done.stdout
    assert "costs at most: 1 core-hours, 1 GiB-hours (2 cores, 2 GiB for 0.5 h)" in done.stdout
    assert "forbidden: Size 'vast' asks for 921600.0 GiB of memory" in done.stdout
    assert "+ job curious/first" in done.stdout
    assert [c.metadata.name for c in curious.client.clusters.list("curious")] == ["dev"]


def test_why_names_a_killed_head_until_the_next_one_serves(curious: LocalPlatform) -> None:
    uid = curious.client.clusters.get("curious", "dev").metadata.uid
    record = curious.home.processes / "clusters" / f"{uid}.json"
    os.kill(int(read_json(record)["pid"]), signal.SIGKILL)
    until(lambda: codes(why(curious, "curious/dev")) == ["head-died"], seconds=60, what="why tells of the head")
    answer = why(curious, "curious/dev")
    assert "The Ray head of 'curious/dev'" in answer["sentence"]
    until(lambda: codes(why(curious, "curious/dev")) == [], seconds=300, what="the next head serves")


def test_why_of_a_suspended_cluster_says_that_it_was_requested_and_that_a_job_waits(curious: LocalPlatform) -> None:
    curious.rayplane("cluster", "suspend", "dev", "--team", "curious", timeout=200)
    answer = why(curious, "curious/dev")
    assert (codes(answer), answer["sentence"]) == (["suspended"], "Cluster 'curious/dev' is suspended on request.")
    submit = ("job", "submit", "--cluster", "dev", "--name", "waits", "--no-wait", "--team", "curious")
    curious.rayplane(*submit, "--", "true")
    answer = why(curious, "job/waits")
    assert answer["sentence"].startswith(
        "Job 'curious/waits' waits for cluster 'curious/dev': cluster 'curious/dev' is"
    )
    curious.rayplane("job", "stop", "waits", "--team", "curious")
