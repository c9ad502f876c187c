"""Inputs of the quickstart: the team's documents and requests, and errors that say what to do."""

from __future__ import annotations

import http.server
import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs import flights_data
from rayplane.client import quickstart
from rayplane.client.sdk import Client
from rayplane.errors import Failed, InvalidInput, InvalidSpec, Unavailable
from rayplane.nouns import by_kind
from rayplane.nouns.base import Metadata, Object, Spec, parse
from rayplane.nouns.pipeline import PipelineSpec
from tests.support.clock import FakeClock

CLONE = Path(__file__).parents[3]


def spec(kind: str) -> Spec:
    document = next(d for d in quickstart.read_documents(CLONE / quickstart.DOCUMENTS) if d.kind == kind)
    return parse(by_kind(kind).spec, document.spec, kind)


def pipeline() -> PipelineSpec:
    pipeline_spec = spec("Pipeline")
    assert isinstance(pipeline_spec, PipelineSpec)
    return pipeline_spec


def test_every_document_of_the_team_is_right() -> None:
    kinds = [d.kind for d in quickstart.read_documents(CLONE / quickstart.DOCUMENTS)]
    assert kinds == ["Team", "Cluster", "Pipeline", "Feature", "Model", "Service"]
    for kind in kinds:
        spec(kind)


def test_every_step_runs_a_module_that_exists() -> None:
    for name, step in pipeline().steps.items():
        module = step.entrypoint.split()[2]
        assert importlib.util.find_spec(module) is not None, f"{name}: {module}"


def test_the_join_and_the_materialization_read_the_datasets_that_feed_the_views() -> None:
    steps, needed = pipeline().steps, set(flights_data.FEATURE_SOURCES.values())
    assert needed <= set(steps["training-set"].inputs)
    assert needed == set(steps["materialize"].inputs)


def test_a_slice_sets_only_parameters_that_the_pipeline_has_and_not_the_planes() -> None:
    spec_of_pipeline = pipeline()
    assert set(quickstart.SLICE) | {"days"} <= set(spec_of_pipeline.parameters)
    assert spec_of_pipeline.steps["ingest-planes"].parameters == {}


def test_the_requested_flights_are_known_to_the_reference_team() -> None:
    requests = quickstart.read_requests(CLONE)
    assert len(requests) == 3
    for request in requests:
        assert request["origin"] in flights_data.ORIGINS
        assert request["carrier"] in flights_data.CARRIERS
        assert request["scheduled_at"] > pipeline().parameters["materialize_at"], "asked after its features were known"


def test_a_folder_without_the_documents_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"jobs/flights\.yaml") as caught:
        quickstart.read_documents(tmp_path / quickstart.DOCUMENTS)
    assert caught.value.remedy is not None
    assert "--folder" in caught.value.remedy


def test_a_damaged_document_is_named(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "flights.yaml").write_text("kind: [")
    with pytest.raises(InvalidSpec, match=r"flights\.yaml"):
        quickstart.read_documents(tmp_path / quickstart.DOCUMENTS)


def test_without_a_platform_the_command_says_how_to_start_one(tmp_home: Path) -> None:
    code = "from rayplane.client.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "quickstart", "-o", "json"],
        cwd=CLONE,
        capture_output=True,
        text=True,
        env={**os.environ, "RAYPLANE_HOME": str(tmp_home)},
        check=False,
    )
    assert done.returncode == 8
    assert done.stdout == ""
    assert "rayplane up" in done.stderr


class Service(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/later":
            status = self.server.later.pop(0)  # type: ignore[attr-defined]
            if status:
                self.send_error(int(status))
                return
        known = body["instances"][0].get("origin") == "JFK"
        self.send_response(200 if known else 422)
        self.end_headers()
        self.wfile.write(json.dumps({"predictions": [0.5]} if known else {"detail": "origin: missing"}).encode())

    def log_message(self, format: str, *args: object) -> None:
        del format, args


@pytest.fixture
def server() -> Iterator[http.server.ThreadingHTTPServer]:
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service)
    thread = threading.Thread(target=made.serve_forever, args=(0.02,))
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


@pytest.fixture
def url(server: http.server.ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}/"


def test_a_service_that_refuses_is_quoted(url: str) -> None:
    assert quickstart.ask(url, {"origin": "JFK"}) == {"predictions": [0.5]}
    with pytest.raises(Failed, match=r"422.*origin: missing"):
        quickstart.ask(url, {})


def test_a_service_without_a_listener_is_unavailable(free_port: int) -> None:
    with pytest.raises(Unavailable):
        quickstart.ask(f"http://127.0.0.1:{free_port}/", {}, patience=0)


def test_a_service_that_an_ingress_does_not_know_yet_is_asked_again(url: str, server: Any) -> None:
    server.later = ["502", "503", ""]
    assert quickstart.ask(f"{url}later", {"origin": "JFK"}) == {"predictions": [0.5]}
    server.later = ["503"]
    with pytest.raises(Unavailable, match="503"):
        quickstart.ask(f"{url}later", {"origin": "JFK"}, patience=0)


def test_the_wait_for_a_service_outlasts_a_restart_of_the_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    on_two: dict[str, object] = {"phase": "Ready", "revision": {"version": "2"}}
    looks: list[dict[str, object] | None] = [{"phase": "Pending"}, None, on_two]

    def get(team: str, name: str) -> Object:
        status = looks.pop(0)
        if status is None:
            raise Unavailable("The gateway can't be reached.")
        return Object(kind="Service", metadata=Metadata(name=name, team=team), spec={}, status=status)

    with Client("http://127.0.0.1:1", clock=FakeClock()) as api:
        monkeypatch.setattr(api.services, "get", get)
        assert quickstart._wait_service(api, "2").status == on_two
    assert looks == []
