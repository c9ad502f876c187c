"""The OpenAPI document: FastAPI's own, completed with statuses, headers, links, examples and forms of parameters.

One table for each of these says which routes have it. What a route's code or types can say is not repeated here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter

from rayplane import plugins
from rayplane.gateway.api.auth import OPEN
from rayplane.gateway.api.lanes import ASK_BACKENDS
from rayplane.gateway.api.parameters import PATH_PARAMETERS, RECORDED_TEAM, RECORDS
from rayplane.gateway.api.problems import MEDIA_TYPE, Problem
from rayplane.nouns import NOUNS

RAY = "ray"
"""The tag of the routes for stock Ray clients: their errors are the plain text that Ray's command prints."""

TAGS = {
    "platform": "What the gateway is and how it fares.",
    **{noun.plural: f"The noun {noun.singular}: {(noun.spec.__doc__ or '').strip()}" for noun in NOUNS},
    "packages": "Code packages: zips, kept under their own SHA-256.",
    "plan": "What documents would change, before anything is written.",
    "operations": "Slow work: what a 202 names in its Location.",
    "records": "What is only ever added to: the ledger, the audit log, lineage.",
    "workers": "What the processes of a job say and ask. They send the token of their cluster.",
    RAY: (
        "What stock Ray clients (`ray job submit --address <gateway>/<team>/<cluster>`) speak, as much of it as the "
        "gateway answers. It is Ray's API, not ours: errors are plain text, what is wrong with a request is a 400, a "
        "wrong token a 403, and what admission refuses a 409. The log can also be followed at `.../logs/tail`, by a "
        "websocket, which OpenAPI has no words for. All other paths of Ray's dashboard are answered 501."
    ),
}

DESCRIPTION = """\
Teams, clusters, jobs, pipelines, datasets, features, models and services on Ray.

Every route but the two probes needs `Authorization: Bearer <token>`; `X-Ray-Authorization` is taken too. This document
needs it as well.

**Errors** are problem documents (RFC 9457) with a `remedy`. A status below is one that its route can answer; beside
these a path that is none is answered 404, and a method that a path does not have 405, with `Allow`. What is no HTTP
at all is answered 400 in plain text. A 500 is a defect.

**Names of what is not there.** A path with a name that no object can have is answered 404 where one reads or deletes,
and 422 where one would make it.

**Query parameters and headers that no route has** are ignored. Members of a body that its schema does not have are
refused, but for those of reports from workers, which may be of a newer version.

**Rules that a schema has no words for** are answered 422, with a sentence: that `min` is at most `max`, that a duration
written as text is above zero and below 100 years, that the metadata name what the URL does, that a cursor is one of the
list it is sent to, that a value does not look like a secret, that what a spec names (a parameter, a step, a package, an
address) is there and makes sense together. 409 and 412 say that a thing is in another state than the request supposes;
403 that the principal, or the quota, forbids it.
"""


@dataclass(frozen=True)
class Route:
    """A route of the document, with the properties that the tables ask for."""

    path: str
    method: str
    operation: dict[str, Any]

    @property
    def key(self) -> tuple[str, str]:
        """(method, template), as in ``lanes.ASK_BACKENDS``."""
        return self.method.upper(), self.path

    @property
    def is_open(self) -> bool:
        """True if it needs no token."""
        return self.path in OPEN

    @property
    def is_ray(self) -> bool:
        """True if it is for Ray's clients."""
        return RAY in self.operation.get("tags", [])

    @property
    def has_body(self) -> bool:
        """True if it reads a body."""
        return "requestBody" in self.operation

    @property
    def writes(self) -> bool:
        """True if it may change anything."""
        return self.method not in ("get", "head")

    @property
    def is_named(self) -> bool:
        """True if its path or its body names an object."""
        return "{" in self.path or self.operation["operationId"] in ("get_run_context", "post_events")

    def takes(self, name: str, location: str) -> bool:
        """True if it has a parameter of this name there (``query``, ``header`` or ``path``)."""
        return any(p["name"] == name and p["in"] == location for p in self.operation.get("parameters", []))

    @property
    def is_constrained(self) -> bool:
        """True if a body or parameter of it can be invalid."""
        wrong = ("query", "header")
        return (
            self.has_body
            or any(p["in"] in wrong for p in self.operation.get("parameters", []))
            or any(f"{{{name}}}" in self.path for name in CHECKED)
        )


CHECKED = frozenset({"sha256"})
"""Path parameters of which an invalid form is refused (422); an invalid one of any other is simply unknown (404)."""
_ACTS = ("suspend_cluster", "resume_cluster", "extend_cluster")


@dataclass(frozen=True)
class Answer:
    """An error response: its description, and the routes that give it."""

    says: str
    when: Callable[[Route], bool]


ERRORS: dict[int, Answer] = {
    400: Answer(
        "The body can't be read: it is no JSON, or ended too early. To Ray's clients: the request is wrong.",
        lambda r: r.has_body or r.is_ray,
    ),
    401: Answer("No token, or one that is not known.", lambda r: not r.is_open),
    403: Answer(
        "The principal may not do this, or admission refuses it.",
        lambda r: not r.is_open and r.operation["operationId"] != "get_openapi",
    ),
    404: Answer("No such object.", lambda r: r.is_named),
    408: Answer("The request did not arrive in time; the connection is closed.", lambda r: True),
    409: Answer("The object is in another state than the request supposes.", lambda r: r.writes),
    412: Answer(
        "If-Match names another version, or If-None-Match refuses the one that is there.",
        lambda r: r.takes("If-Match", "header"),
    ),
    413: Answer("The body is larger than the route takes.", lambda r: r.has_body),
    422: Answer("The request is wrong; nothing was made.", lambda r: r.is_constrained and not r.is_ray),
    429: Answer("The principal has as many requests open as one may; Retry-After says more.", lambda r: not r.is_open),
    431: Answer("The request's line and headers are too long.", lambda r: True),
    501: Answer(
        "The backend, or a plug-in that is installed here, can't do this.",
        lambda r: r.writes and (r.key in ASK_BACKENDS or r.operation["operationId"] in _ACTS),
    ),
    503: Answer("Something needed is down or busy; Retry-After says when to ask again.", lambda r: True),
    507: Answer("There is no room left in the storage root or the home.", lambda r: r.writes),
}
"""Status -> its response. The classes of ``rayplane.errors`` that the gateway raises have no other statuses."""

_HEADERS: dict[str, dict[str, Any]] = {
    "WWW-Authenticate": {"description": "How to say who one is.", "schema": {"type": "string"}},
    "Retry-After": {
        "description": "Seconds after which to ask again.",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    },
    "ETag": {
        "description": "The version of the object, for If-Match.",
        "schema": {"type": "string", "pattern": '^"[0-9]+"$'},
    },
    "Location": {"description": "Where to look how it goes.", "schema": {"type": "string", "pattern": "^/v1/"}},
    "X-Change": {
        "description": "What the write did.",
        "schema": {"type": "string", "enum": ["created", "changed", "unchanged"]},
    },
    "X-Replayed": {
        "description": "The answer to an earlier request with this Idempotency-Key is given again.",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "X-Next-Offset": {
        "description": "The byte to go on from.",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    },
    "X-Log-Complete": {
        "description": "Whether there will be no more.",
        "schema": {"type": "string", "enum": ["true", "false"]},
    },
}
_ERROR_HEADERS = {401: "WWW-Authenticate", 429: "Retry-After", 503: "Retry-After"}

EXAMPLES: dict[str, dict[str, Any]] = {
    "Team": {"backend": "local", "members": {"ada": "viewer"}, "quota": {"cpu": 64, "memory": "256Gi", "clusters": 4}},
    "Cluster": {"size": "small", "workers": "0..4", "idle_timeout": "1h"},
    "Job": {"entrypoint": "python -m jobs.train", "cluster": "dev", "parameters": {"rounds": "300"}, "timeout": "2h"},
    "Pipeline": {
        "cluster": "dev",
        "parameters": {"month": "2013-01"},
        "steps": {
            "publish": {
                "entrypoint": "python -m jobs.publish",
                "outputs": ["flights"],
                "parameters": {"month": "${month}"},
            },
            "train": {"entrypoint": "python -m jobs.train", "inputs": ["flights"], "tracked": True},
        },
    },
    "Dataset": {"description": "Flights out of New York.", "retention": "365d"},
    "Feature": {"repository": "features", "freshness": "1h"},
    "Model": {"description": "Arrives late?", "gate": {"metrics": {"auc": {"min": 0.7}}}},
    "Service": {"model": "models:/delays@champion", "cluster": "dev", "replicas": {"min": 1, "max": 2}},
}
"""Kind -> an example of its spec."""


def document(app: FastAPI, backends: list[str]) -> dict[str, Any]:
    """Build the document of an app that offers these backends. Pure but for reading the app's routes."""
    openapi_document = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=DESCRIPTION,
        routes=app.routes,
        tags=[{"name": name, "description": text} for name, text in TAGS.items()],
    )
    components = openapi_document.setdefault("components", {})
    components["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer", "description": "A token of a user, a cluster or of Prometheus."}
    }
    openapi_document["security"] = [{"token": []}]
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):  # the gateway's errors are problem documents instead
        schemas.pop(name, None)
    schemas["Problem"] = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    components["headers"] = _HEADERS
    components["responses"] = dict(_error_responses())
    for path, item in openapi_document["paths"].items():
        for method, operation in item.items():
            _complete(Route(path, method, operation))
    for name, schema in schemas.items():
        _tidy(schema)
        if name.endswith(("Document", "Submission", "-Input")):
            _offer(schema, backends)
    return openapi_document


def routes_of(openapi_document: dict[str, Any]) -> Iterator[Route]:
    """All routes of a document."""
    for path, item in openapi_document["paths"].items():
        for method, operation in item.items():
            yield Route(path, method, operation)


def _complete(route: Route) -> None:
    operation = route.operation
    operation["parameters"] = [_parameter(p, operation) for p in operation.get("parameters", [])]
    named = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
    for name in PATH_PARAMETERS:  # FastAPI omits a parameter of the path that the route's function does not take
        if f"{{{name}}}" in route.path and name not in named:
            parameter = {"name": name, "in": "path", "required": True, "schema": {}}
            operation["parameters"].append(_parameter(parameter, operation))
    if not operation["parameters"]:
        del operation["parameters"]
    if route.is_open:
        operation["security"] = []
    _add_headers(route)
    _add_errors(route)
    _add_examples(route)
    _add_links(route)


def _parameter(parameter: dict[str, Any], operation: dict[str, Any]) -> dict[str, Any]:
    name, schema = parameter["name"], dict(parameter["schema"])
    if parameter["in"] == "path":
        recorded = name == "team" and operation["operationId"] in RECORDS
        described, annotation = RECORDED_TEAM if recorded else PATH_PARAMETERS[name]
        schema = TypeAdapter(annotation).json_schema()
        return {"name": name, "in": "path", "required": True, "description": described, "schema": schema}
    # Drop null: a query parameter or header without a value is left out instead.
    options = [option for option in schema.pop("anyOf", []) if option != {"type": "null"}]
    for option in options[:1]:
        schema = {**option, **schema}
    return {**parameter, "schema": schema}


def _add_headers(route: Route) -> None:
    operation = route.operation
    for code, response in operation["responses"].items():
        if not code.startswith("2"):
            continue
        names: dict[str, bool] = {}
        if _shows_object(response):
            names["ETag"] = True
            if code == "202" and not operation["operationId"].startswith("stop_"):
                names["Location"] = True
            if route.method == "put":
                names["X-Change"] = True
        if route.takes("Idempotency-Key", "header"):
            names["X-Replayed"] = False
        if operation["operationId"] == "get_job_logs":
            names |= {"X-Next-Offset": True, "X-Log-Complete": True}
        if names:
            # Not a reference to the component, since ``required`` stands beside the schema.
            response["headers"] = {name: {**_HEADERS[name], "required": always} for name, always in names.items()}


def _shows_object(response: dict[str, Any]) -> bool:
    schema = response.get("content", {}).get("application/json", {}).get("schema", {})
    return schema.get("$ref", "").removeprefix("#/components/schemas/") in {*(n.kind for n in NOUNS), "PipelineRun"}


def _error_responses() -> Iterator[tuple[str, dict[str, Any]]]:
    problem = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    text = {"text/plain": {"schema": {"type": "string"}}}
    for code, answer in ERRORS.items():
        header = _ERROR_HEADERS.get(code)
        headers = {"headers": {header: {**_HEADERS[header], "required": True}}} if header else {}
        for prefix, content in (("Problem", {"content": problem}), ("Text", {"content": text}), ("Head", {})):
            yield f"{prefix}{code}", {"description": answer.says, **headers, **content}


def _add_errors(route: Route) -> None:
    responses = route.operation["responses"]
    responses.pop("422", None)
    prefix = "Head" if route.method == "head" else "Text" if route.is_ray else "Problem"
    for code, answer in ERRORS.items():
        if answer.when(route):
            responses[str(code)] = {"$ref": f"#/components/responses/{prefix}{code}"}
    route.operation["responses"] = dict(sorted(responses.items()))


def _add_examples(route: Route) -> None:
    kinds = {f"put_{noun.singular}": noun.kind for noun in NOUNS} | {"submit_job": "Job"}
    kind = kinds.get(route.operation["operationId"])
    if kind in EXAMPLES:
        body = route.operation["requestBody"]["content"]["application/json"]
        body["examples"] = {kind.lower(): {"summary": f"A {kind.lower()}", "value": {"spec": EXAMPLES[kind]}}}


def _add_links(route: Route) -> None:
    """Add links to what a client may do next with the created object: get it, ask why, delete or stop it."""
    name = route.operation["operationId"]
    for noun in NOUNS:
        name_in_body = "$response.body#/metadata/name"
        if noun.team_scoped:
            where = {"team": "$request.path.team", "name": name_in_body}
        else:
            where = {"team": name_in_body}
        if name in (f"put_{noun.singular}", *(["submit_job"] if noun.kind == "Job" else [])):
            verbs = ("get", "why", "delete")
            for code in ("200", "201", "202"):
                if code in route.operation["responses"]:
                    route.operation["responses"][code]["links"] = {
                        f"{verb}_{noun.singular}": {"operationId": f"{verb}_{noun.singular}", "parameters": where}
                        for verb in verbs
                    }
    if name == "start_run":
        where = {"team": "$request.path.team", "name": "$request.path.name", "run": "$response.body#/metadata/name"}
        route.operation["responses"]["202"]["links"] = {
            other: {"operationId": other, "parameters": where} for other in ("get_run", "stop_run")
        }


def _tidy(schema: Any) -> None:
    """Replace pydantic's own keywords by those of JSON Schema, in place."""
    if isinstance(schema, list):
        for part in schema:
            _tidy(part)
    if not isinstance(schema, dict):
        return
    if "ge" in schema and "type" in schema:
        schema["minimum"] = schema.pop("ge")
    patterns = schema.get("patternProperties")
    if isinstance(patterns, dict) and len(patterns) == 1:  # pydantic means that all keys match the pattern
        ((pattern, values),) = schema.pop("patternProperties").items()
        schema["propertyNames"] = {**schema.get("propertyNames", {}), "pattern": pattern}
        schema["additionalProperties"] = values
    for part in schema.values():
        _tidy(part)


def _offer(schema: Any, backends: list[str]) -> None:
    """List the offered backends as the ``enum`` of each field ``backend``, in place."""
    if isinstance(schema, list):
        for part in schema:
            _offer(part, backends)
    if not isinstance(schema, dict):
        return
    backend = schema.get("properties", {}).get("backend") if isinstance(schema.get("properties"), dict) else None
    if isinstance(backend, dict):
        for option in backend.get("anyOf", [backend]):
            if option.get("type") == "string":
                option["enum"] = backends
    for part in schema.values():
        _offer(part, backends)


def offered(backends: list[str] | None) -> list[str]:
    """The installed backends that the settings offer (None: all of them)."""
    known = plugins.names("backends")
    return known if backends is None else [name for name in known if name in backends]
