"""Specs and runs of pipelines; code packages."""

from __future__ import annotations

import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rayplane.errors import Conflict, InvalidData, InvalidSpec, NotFound
from rayplane.gateway.admission.roles import Principal
from rayplane.gateway.usecases import packages, pipeline
from rayplane.storage import layout

SPEC: dict[str, Any] = {
    "cluster": "dev",
    "parameters": {"days": "30"},
    "steps": {
        "ingest": {"entrypoint": "python -m jobs.ingest", "outputs": ["raw"], "parameters": {"days": "${days}"}},
        "train": {"entrypoint": "python -m jobs.train", "inputs": ["raw"], "tracked": True},
    },
}


def start(bench: Any, ada: Principal, name: str = "flights", **parameters: str) -> Any:
    return pipeline.start_run("growth", name, parameters, False, principal=ada, platform=bench.platform)


def test_runs_count_up_and_keep_the_spec_as_it_was(bench: Any, ada: Principal) -> None:
    stored = bench.apply("Pipeline", "flights", SPEC)[0]
    first = start(bench, ada, days="7")
    bench.apply("Pipeline", "flights", {**SPEC, "parameters": {"days": "60"}})
    second = start(bench, ada)
    assert [first.metadata.name, second.metadata.name] == ["flights-1", "flights-2"]
    assert first.spec_data["snapshot"] == stored.spec_data
    assert first.spec_data["parameters"] == {"days": "7"}
    assert second.spec_data["snapshot"]["parameters"] == {"days": "60"}
    assert first.status_data["phase"] == "Pending"
    assert bench.store.get("Pipeline", "growth", "flights").status_data["last_run"] == "flights-2"
    page = pipeline.list_runs("growth", "flights", limit=1, principal=ada, platform=bench.platform)
    assert [r.metadata.name for r in page.items] == ["flights-1"]
    assert page.next_cursor is not None


def test_the_number_of_a_deleted_run_is_not_reused(bench: Any, ada: Principal) -> None:
    bench.apply("Pipeline", "flights", SPEC)
    bench.store.remove(start(bench, ada).metadata.uid)
    assert start(bench, ada).metadata.name == "flights-2"


def test_runs_of_pipelines_with_long_names_have_different_names(bench: Any, ada: Principal) -> None:
    names = ["a" * 39 + end for end in "bc"]
    for name in names:
        bench.apply("Pipeline", name, SPEC)
    runs = [start(bench, ada, name).metadata.name for name in names]
    assert len(set(runs)) == 2
    assert all(len(run) <= 40 for run in runs)


def test_runs_that_start_at_once_have_different_names(bench: Any, ada: Principal) -> None:
    bench.apply("Pipeline", "flights", SPEC)
    with ThreadPoolExecutor(6) as pool:
        names = list(pool.map(lambda _: start(bench, ada).metadata.name, range(6)))
    assert sorted(names) == [f"flights-{n}" for n in range(1, 7)]


def test_an_unknown_parameter_is_refused_with_the_nearest(bench: Any, ada: Principal) -> None:
    bench.apply("Pipeline", "flights", SPEC)
    with pytest.raises(InvalidSpec, match=r"parameter 'dys' is unknown. Did you mean 'days'?"):
        start(bench, ada, dys="7")
    with pytest.raises(NotFound, match="Did you mean 'flights'"):
        start(bench, ada, "flihgts")
    assert bench.store.count("PipelineRun") == 0


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"parameters": {"n": "${dayz}"}}, "pipeline.steps.train.parameters.n: parameter 'dayz' is unknown"),
        ({"sources": {"raw": "file:///${where}"}}, "pipeline.steps.train.sources.raw: parameter 'where' is unknown"),
        ({"env": {"RAYPLANE_TEAM": "x"}}, "pipeline.steps.train.env.RAYPLANE_TEAM"),
        ({"needs": ["nothing"]}, "needs 'nothing', which is not a step"),
        ({"inputs": ["absent"]}, "reads 'absent', which no step makes"),
        ({"need": ["ingest"]}, "pipeline.steps.train.need: unknown field. Did you mean 'needs'?"),
    ],
)
def test_a_pipeline_is_checked_whole_before_it_is_stored(bench: Any, step: dict[str, Any], message: str) -> None:
    steps = {**SPEC["steps"], "train": {**SPEC["steps"]["train"], **step}}
    with pytest.raises(InvalidSpec) as caught:
        bench.apply("Pipeline", "flights", {**SPEC, "steps": steps})
    assert message in str(caught.value)
    assert bench.store.count("Pipeline") == 0


def test_a_run_is_stopped_once_and_belongs_to_its_pipeline(bench: Any, ada: Principal) -> None:
    bench.apply("Pipeline", "flights", SPEC)
    bench.apply("Pipeline", "other", SPEC)
    run = start(bench, ada).metadata.name

    def stop() -> Any:
        return pipeline.stop_run("growth", "flights", run, principal=ada, platform=bench.platform)

    with pytest.raises(NotFound, match="It is a run of 'flights'"):
        pipeline.get_run("growth", "other", run, principal=ada, platform=bench.platform)
    with pytest.raises(Conflict, match="has not ended"):
        bench.delete("Pipeline", "flights")
    stopped = stop()
    assert stopped.spec_data["stop_requested"] is True
    assert stop() == stopped
    bench.settle("PipelineRun", run, "Stopped")
    bench.delete("Pipeline", "flights")
    assert pipeline.list_runs("growth", "flights", principal=ada, platform=bench.platform).items != []


def test_a_package_is_stored_once_under_its_hash(bench: Any, ada: Principal, make_zip: Any) -> None:
    sha256, data = make_zip()
    assert not packages.has("growth", sha256, principal=ada, platform=bench.platform)
    for _ in range(2):
        packages.put("growth", sha256, io.BytesIO(data), principal=ada, platform=bench.platform)
    assert packages.has("growth", sha256, principal=ada, platform=bench.platform)
    assert not packages.has("ads", sha256, principal=ada, platform=bench.platform)


def test_an_upload_with_another_hash_or_that_is_no_safe_zip_is_refused(
    bench: Any, ada: Principal, make_zip: Any
) -> None:
    sha256, data = make_zip()

    def put(name: str, content: bytes) -> None:
        packages.put("growth", name, io.BytesIO(content), principal=ada, platform=bench.platform)

    with pytest.raises(InvalidData, match="Upload it again"):
        put(sha256, data[:-1])
    with pytest.raises(InvalidData, match="not a SHA-256"):
        put("../../etc", data)
    with pytest.raises(InvalidData, match="not a zip"):
        put(hashlib.sha256(b"text").hexdigest(), b"text")
    damaged = data.replace(b"hello", b"hullo")
    with pytest.raises(InvalidData, match=r"train\.py' is damaged"):
        put(hashlib.sha256(damaged).hexdigest(), damaged)
    for outside in ("../evil.py", "/etc/passwd", "a/../../b"):
        with pytest.raises(InvalidData, match="leaves its folder"):
            put(*make_zip({outside: "x"}))
    assert not bench.platform.storage.exists("growth/packages")


def test_a_package_is_found_by_the_name_from_a_ray_client(bench: Any, ada: Principal, make_zip: Any) -> None:
    sha256, data = make_zip()
    name = "_ray_pkg_0123456789abcdef.zip"
    assert packages.resolve_ray_name("growth", name, platform=bench.platform) is None
    packages.put_by_ray_name("growth", name, io.BytesIO(data), principal=ada, platform=bench.platform)
    assert packages.resolve_ray_name("growth", name, platform=bench.platform) == sha256
    assert packages.resolve_ray_name("ads", name, platform=bench.platform) is None
    bench.platform.storage.append(layout.package_alias("growth", name), b"\xff" * 100)
    assert packages.resolve_ray_name("growth", name, platform=bench.platform) is None
    for wrong in ("../x", "a/b", "", ".hidden"):
        with pytest.raises(InvalidData):
            packages.resolve_ray_name("growth", wrong, platform=bench.platform)


def test_no_run_is_made_of_a_stored_pipeline_that_todays_rules_refuse(bench: Any, ada: Principal) -> None:
    spec = {"cluster": "dev", "steps": {"a": {"entrypoint": "true", "inputs": ["nowhere"]}}}
    bench.store.put("Pipeline", "growth", "old", spec, owner="test")
    with pytest.raises(InvalidSpec, match="nowhere"):
        pipeline.start_run("growth", "old", {}, False, principal=ada, platform=bench.platform)
    assert bench.store.count("PipelineRun", "growth") == 0
