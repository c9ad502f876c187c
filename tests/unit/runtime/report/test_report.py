"""Events: written to disk first, then posted in the background, never lost while the gateway is down."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rayplane.errors import InvalidData, StorageFull, Unavailable
from rayplane.runtime import context, report


def _on_disk(tmp_path: Path) -> dict[str, Any]:
    folder = tmp_path / "storage/growth/jobs/uid1/events"
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def test_an_event_is_on_disk_and_then_posted(job: Any, gateway: Any, tmp_path: Path) -> None:
    event = report.output("auc", 0.76)
    assert _on_disk(tmp_path)[event.id]["data"] == {"name": "auc", "value": 0.76}
    assert report.flush(10)
    assert [(e["id"], e["submission_id"]) for e in gateway.events()] == [(event.id, "uid1-1")]


def test_events_written_while_the_gateway_is_down_arrive_once_it_is_back(
    job: Any, gateway: Any, tmp_path: Path
) -> None:
    gateway.down = True
    ids = [report.output("n", n).id for n in range(5)]
    assert not report.flush(0.3)
    assert set(_on_disk(tmp_path)) == set(ids)
    gateway.down = False
    assert report.flush(10)
    assert [e["id"] for e in gateway.events()] == ids


def test_events_go_in_batches(job: Any, gateway: Any) -> None:
    gateway.down = True
    for n in range(report.BATCH + 5):
        report.output("n", n)
    gateway.down = False
    assert report.flush(10)
    sizes = [len(body["events"]) for _, path, body in gateway.requests if path == "/v1/events"]
    assert sum(sizes) == report.BATCH + 5
    assert max(sizes) <= report.BATCH


def test_an_event_that_the_gateway_refuses_does_not_hold_up_the_others(
    job: Any, gateway: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.routes["POST", "/v1/events"] = lambda body: (422, {"detail": "no such event"})
    refused = report.output("bad", 1)
    assert report.flush(10)
    assert refused.id in caplog.text
    gateway.routes["POST", "/v1/events"] = lambda body: (200, {})
    good = report.output("good", 2)
    assert report.flush(10)
    assert good.id in [e["id"] for e in gateway.events()]
    assert refused.id in _on_disk(tmp_path), "the reconciler reads it from there when the job ends"


def test_outside_a_job_an_event_is_posted_at_once_or_fails(make_context: Any, gateway: Any) -> None:
    with context.override(make_context(job=None, job_uid=None, job_uri=None, submission_id=None)):
        event = report.edge("dataset:a@1", "view:b@1")
        assert [e["id"] for e in gateway.events()] == [event.id]
        gateway.down = True
        with pytest.raises(Unavailable):
            report.output("n", 1)


@pytest.mark.parametrize("value", [object(), float("nan"), {1, 2}, {"a": ["\ud800"]}])
def test_a_value_that_is_not_json_is_refused_naming_the_event(job: Any, value: Any) -> None:
    with pytest.raises(InvalidData, match=r"output\.recorded"):
        report.output("n", value)


def test_a_full_disk_raises_storage_full_and_posts_nothing(
    job: Any, gateway: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any, path: str, data: bytes) -> None:
        raise StorageFull("No room left.")

    monkeypatch.setattr("rayplane.storage.file.FileStorage.write", full)
    with pytest.raises(StorageFull):
        report.output("n", 1)
    assert gateway.events() == []


SCRIPT = """
import json, sys
from rayplane.nouns.job import RunContext
from rayplane.runtime import context, report
report.EXIT_PATIENCE = 3.0
with context.override(RunContext.model_validate_json(sys.argv[1])):
    report.output("last words", 1)
"""


def _run(make_context: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, make_context().model_dump_json()], capture_output=True, text=True, timeout=60
    )


def test_a_process_that_ends_at_once_still_posts_its_events(make_context: Any, gateway: Any) -> None:
    assert _run(make_context).returncode == 0
    assert [e["data"]["name"] for e in gateway.events()] == ["last words"]


def test_a_process_succeeds_and_ends_in_time_even_if_the_gateway_is_down(
    make_context: Any, gateway: Any, tmp_path: Path
) -> None:
    gateway.down = True
    started = time.monotonic()
    done = _run(make_context)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 3 + 10
    assert len(_on_disk(tmp_path)) == 1
