"""The OpenAPI document: valid, complete, and consistent with the code; and defects that fuzzing by it has revealed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from jsonschema import Draft202012Validator
from schemathesis.specs.openapi.definitions import OPENAPI_31
from starlette.routing import Route, WebSocketRoute

from rayplane import errors
from rayplane.gateway.api.openapi import ERRORS, EXAMPLES, routes_of
from rayplane.gateway.api.parameters import PATH_PARAMETERS, RECORDED_TEAM, RECORDS
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns import NOUNS
from tests.support import http_reference

OTHERS = {
    "RayplaneError": "a defect",
    "Failed": "raised by the client for a job that failed",
    "Timeout": "raised by the client for a wait that was too long",
}
"""Error classes that no response of the gateway is made of, and why."""

NOT_IN_IT = {"/{team}/{cluster}/api/{rest:path}": "answers 501 or 405 to all other paths of Ray's dashboard"}
"""HTTP routes that are not in the document, and what they do."""


@pytest.fixture
def made(api: TestClient) -> dict[str, Any]:
    answer = api.get("/openapi.json")
    assert answer.status_code == 200
    document: dict[str, Any] = answer.json()
    return document


def values(part: Any) -> Iterator[Any]:
    yield part
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from values(inner)


def routes(api: TestClient) -> Iterator[Any]:
    for router in api.app.state.routers:  # type: ignore[attr-defined]
        yield from router.routes


def test_the_document_is_valid_openapi(made: dict[str, Any]) -> None:
    Draft202012Validator(OPENAPI_31).validate(made)
    assert made["openapi"].startswith("3.1.")


def test_each_schema_in_the_document_is_valid(made: dict[str, Any]) -> None:
    for schema in made["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    for route in routes_of(made):
        for parameter in route.operation.get("parameters", []):
            Draft202012Validator.check_schema(parameter["schema"])


def test_each_reference_in_the_document_resolves(made: dict[str, Any]) -> None:
    references = [part["$ref"] for part in values(made) if isinstance(part, dict) and isinstance(part.get("$ref"), str)]
    assert references
    for reference in references:
        target = made
        for key in reference.removeprefix("#/").split("/"):
            target = target[key]


def test_each_pattern_means_the_same_in_python_and_in_json_schema(made: dict[str, Any]) -> None:
    for part in values(made):
        if isinstance(part, dict) and isinstance(part.get("pattern"), str):
            re.compile(part["pattern"])
            assert not re.search(r"\\[swdSWDbBAZ]", part["pattern"]), part["pattern"]


def test_the_document_has_exactly_the_routes_of_the_app(api: TestClient, made: dict[str, Any]) -> None:
    documented = {(route.method.upper(), route.path) for route in routes_of(made)}
    served = {(method, route.path) for route in routes(api) if isinstance(route, APIRoute) for method in route.methods}
    assert documented == served
    others = {route.path for route in routes(api) if isinstance(route, Route) and not isinstance(route, APIRoute)}
    assert others == set(NOT_IN_IT)
    assert {route.path.split("/")[-1] for route in routes(api) if isinstance(route, WebSocketRoute)} == {
        "tail",
        "{rest:path}",
    }


def test_each_operation_has_a_readable_id_a_summary_and_described_tags(made: dict[str, Any]) -> None:
    tags = {tag["name"] for tag in made["tags"] if tag["description"]}
    ids = [route.operation["operationId"] for route in routes_of(made)]
    assert len(ids) == len(set(ids))
    for route in routes_of(made):
        assert re.fullmatch("[a-z]+(_[a-z]+)*", route.operation["operationId"])
        assert route.operation["summary"]
        assert set(route.operation["tags"]) <= tags


def test_each_path_parameter_is_documented_with_its_form(made: dict[str, Any]) -> None:
    for route in routes_of(made):
        parameters = {p["name"]: p for p in route.operation.get("parameters", []) if p["in"] == "path"}
        assert set(parameters) == set(re.findall(r"{(\w+)}", route.path)), route.path
        for name, parameter in parameters.items():
            recorded = name == "team" and route.operation["operationId"] in RECORDS
            assert parameter["description"] == (RECORDED_TEAM if recorded else PATH_PARAMETERS[name])[0]
            assert {"pattern", "minLength"} & set(parameter["schema"])


def test_each_status_of_an_error_that_the_gateway_raises_is_documented(made: dict[str, Any]) -> None:
    tree = {cls for cls in errors._all_classes() if cls.__module__ == errors.__name__}
    classes = {cls for cls in tree if cls.__name__ not in OTHERS}
    statuses = {cls.status for cls in classes}
    assert statuses == set(ERRORS)
    documented = {int(code) for route in routes_of(made) for code in route.operation["responses"]}
    assert statuses <= documented
    assert 500 not in documented


def test_no_class_outside_the_tree_of_errors_has_a_status_of_its_own() -> None:
    classes = {cls for cls in errors._all_classes() if cls.__module__.startswith("rayplane.")}
    assert not {cls for cls in classes if cls.__module__ != errors.__name__ and "status" in vars(cls)}


def test_each_error_is_a_problem_except_for_rays_clients(made: dict[str, Any]) -> None:
    responses = made["components"]["responses"]
    for route in routes_of(made):
        for code, response in route.operation["responses"].items():
            if int(code) < 400:
                continue
            content = set(responses[response["$ref"].rsplit("/", 1)[-1]].get("content", {}))
            wanted = "text/plain" if "ray" in route.operation["tags"] else "application/problem+json"
            assert content == (set() if route.method == "head" else {wanted})


def test_a_status_that_a_route_can_not_have_is_not_documented(made: dict[str, Any]) -> None:
    def statuses(path: str, method: str) -> set[int]:
        return {int(code) for code in made["paths"][path][method]["responses"]}

    assert statuses("/healthz", "get") == {200, 408, 431, 503}
    assert statuses("/v1/info", "get") == {200, 401, 403, 408, 429, 431, 503}
    item = made["paths"]["/v1/teams/{team}/clusters/{name}"]
    assert {int(code) for code in item["get"]["responses"]} == {200, 401, 403, 404, 408, 429, 431, 503}
    assert {int(code) for code in item["put"]["responses"]} == {
        200, 201, 202, 400, 401, 403, 404, 408, 409, 412, 413, 422, 429, 431, 501, 503, 507,
    }  # fmt: skip


def test_the_reference_page_is_up_to_date_with_the_document() -> None:
    # After a change: python -m tests.support.http_reference
    assert http_reference.PAGE.read_text() == http_reference.page()


@pytest.mark.parametrize("noun", NOUNS, ids=lambda noun: noun.singular)
def test_the_example_of_a_noun_is_accepted(growth: TestClient, noun: Any) -> None:
    base = f"/v1/teams/growth/{noun.plural}" if noun.team_scoped else "/v1/teams"
    answer = growth.put(f"{base}/example", json={"spec": EXAMPLES[noun.kind]})
    assert answer.status_code in (200, 201, 202), answer.text


def test_the_document_lists_the_backends_that_the_settings_offer(platform: Platform, token: str) -> None:
    from dataclasses import replace

    from rayplane.gateway.api.app import create_app

    settings = platform.settings.model_copy(update={"backends": ["local"]})
    client = TestClient(create_app(replace(platform, settings=settings)), headers={"Authorization": f"Bearer {token}"})
    schema = client.get("/openapi.json").json()["components"]["schemas"]["TeamDocument"]
    assert schema["properties"]["spec"]["properties"]["backend"]["enum"] == ["local"]
    assert client.put("/v1/teams/growth", json={"spec": {"backend": "existing"}}).status_code == 403


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/teams/growth/clusters/dev", "DELETE, GET, PUT"),
        ("/v1/teams/growth/jobs", "GET, POST"),
        ("/v1/info", "GET"),
        ("/growth/dev/api/jobs/", "GET, POST"),
        ("/growth/dev/api/version", "GET"),
    ],
)
def test_a_method_that_a_path_does_not_have_is_answered_with_the_allowed_ones(
    growth: TestClient, path: str, allowed: str
) -> None:
    answer = growth.request("PATCH", path)
    assert (answer.status_code, answer.headers["Allow"]) == (405, allowed)


@pytest.mark.parametrize("path", ["audit", "leases", "lineage?node=a", "usage"])
def test_records_of_a_name_that_no_team_can_have_are_not_found(growth: TestClient, path: str) -> None:
    for team in ("0", "Growth", "a" * 41, "%C3%97", "0.5"):
        answer = growth.get(f"/v1/teams/{team}/{path}")
        assert answer.status_code == 404, answer.text


def test_records_of_a_deleted_team_are_still_there(growth: TestClient, platform: Platform) -> None:
    assert growth.put("/v1/teams/gone", json={"spec": {}}).is_success
    assert growth.delete("/v1/teams/gone").status_code == 202
    platform.store.remove(platform.store.get("Team", "", "gone").metadata.uid)
    assert [entry["action"] for entry in growth.get("/v1/teams/gone/audit").json()["items"]] == ["delete", "apply"]


@pytest.mark.parametrize("cluster", ["g/dev", "Growth/dev", "growth/Dev"])
def test_rays_client_gets_an_error_for_an_address_that_no_cluster_can_have(growth: TestClient, cluster: str) -> None:
    answer = growth.get(f"/{cluster}/api/version")
    assert answer.status_code == 400
    assert "<gateway>/<team>/<cluster>" in answer.text


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_package_of_another_protocol_is_refused(growth: TestClient, method: str) -> None:
    answer = growth.request(method, "/growth/dev/api/packages/s3/code.zip", content=b"")
    assert (answer.status_code, "'s3'" in answer.text) == (400, True)


def job(**spec: Any) -> dict[str, Any]:
    return {"spec": {"entrypoint": "true", "cluster": "dev", **spec}}


@pytest.mark.parametrize(
    "spec",
    [
        {"retries": True}, {"retries": "3"}, {"retries": 1.5}, {"tracked": "yes"}, {"tracked": 0},
        {"resources": {"cpu": True}}, {"timeout": True}, {"timeout": "٣s"}, {"resources": {"cpu": "٣"}},
        {"entrypoint": " \n"}, {"env": {"A": 1}},
    ],
)  # fmt: skip
def test_a_value_of_another_type_than_in_the_schema_is_refused(growth: TestClient, spec: dict[str, Any]) -> None:
    answer = growth.put("/v1/teams/growth/jobs/one", json=job(**spec))
    assert answer.status_code == 422, answer.text


def test_a_whole_number_is_an_integer_as_in_json_schema(growth: TestClient) -> None:
    assert growth.put("/v1/teams/growth/jobs/one", json=job(retries=1.0)).status_code == 202
    spec = {"workers": 2.0}
    assert growth.put("/v1/teams/growth/clusters/more", json={"spec": spec}).json()["spec"]["workers"]["max"] == 2


@pytest.mark.parametrize("at", [0, "0", "1767225600", "2026-01-01", "2026-01-01T00:00:00"])
def test_an_instant_needs_a_date_a_time_and_a_zone(growth: TestClient, at: Any) -> None:
    body = {"metadata": {"created_at": at}, "spec": {}}
    assert growth.put("/v1/teams/growth/datasets/one", json=body).status_code == 422


@pytest.mark.parametrize("key", ["", "a b", "a" * 201, "é"])
def test_an_idempotency_key_must_be_visible_ascii(growth: TestClient, key: str) -> None:
    headers = {"Idempotency-Key": key.encode()}
    answer = growth.put("/v1/teams/growth/datasets/one", json={"spec": {}}, headers=headers)  # type: ignore[arg-type]
    assert answer.status_code == 422


@pytest.mark.parametrize("version", [True, "1", 1.5])
def test_the_schema_version_of_a_report_must_be_a_whole_number(growth: TestClient, version: Any) -> None:
    body = {"schema_version": version, "events": [{"id": "1", "type": "attempt.ended"}]}
    assert growth.post("/v1/events?team=growth", json=body).status_code == 422


def test_a_model_uri_with_a_line_feed_is_refused(growth: TestClient) -> None:
    spec = {"model": "models:/delays/1\n", "cluster": "dev"}
    assert growth.put("/v1/teams/growth/services/one", json={"spec": spec}).status_code == 422
