"""Write docs/reference/http.md from the gateway's OpenAPI document: `python -m tests.support.http_reference`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rayplane.gateway.api.app import create_app
from rayplane.gateway.api.openapi import Route, routes_of
from tests.unit.gateway.api.served import platform_without_compute

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "http.md"


def page() -> str:
    """The page's expected text."""
    with tempfile.TemporaryDirectory() as folder, platform_without_compute(Path(folder)) as platform:
        made = create_app(platform).openapi()
    return "\n".join(_lines(made)) + "\n"


def _lines(made: dict[str, Any]) -> Iterator[str]:
    yield "# HTTP"
    yield ""
    yield "<!-- Made by `python -m tests.support.http_reference` from the gateway's OpenAPI document. -->"
    yield ""
    yield "`GET /openapi.json` has all of this and the schemas, for programs."
    yield ""
    yield made["info"]["description"].strip()
    yield ""
    yield "## Statuses of errors"
    yield ""
    yield "| status | says |"
    yield "|---|---|"
    for name, response in made["components"]["responses"].items():
        if name.startswith("Problem"):
            yield f"| {name.removeprefix('Problem')} | {_cell(response['description'])} |"
    routes = list(routes_of(made))
    for tag in made["tags"]:
        yield ""
        yield f"## {tag['name'].capitalize()}"
        yield ""
        yield tag["description"]
        for route in routes:
            if route.operation["tags"][0] == tag["name"]:
                yield from _route(route)


def _route(route: Route) -> Iterator[str]:
    operation = route.operation
    yield ""
    yield f"### `{route.method.upper()} {route.path}`"
    yield ""
    yield f"{operation['summary']} (`{operation['operationId']}`)."
    text = operation.get("description", "").strip()
    if text:
        yield ""
        yield text.replace("``", "`")
    asked = [p for p in operation.get("parameters", []) if p["in"] != "path"]
    if asked:
        yield ""
        yield "| parameter | in | form | is |"
        yield "|---|---|---|---|"
        for p in asked:
            must = " (must be there)" if p.get("required") else ""
            yield f"| `{p['name']}` | {p['in']} | {_form(p['schema'])} | {_cell(p.get('description', ''))}{must} |"
    if route.has_body:
        content = operation["requestBody"]["content"]
        kinds = [f"{kind} {_named(part.get('schema', {}))}".strip() for kind, part in content.items()]
        yield ""
        yield f"Body: {', '.join(kinds)}."
    yield ""
    for code, response in operation["responses"].items():
        if code.startswith("2"):
            headers = response.get("headers")
            with_headers = f" Headers: {', '.join(f'`{name}`' for name in headers)}." if headers else ""
            yield f"- {code}: {_answer(response)}{with_headers}"
    yield f"- Errors: {', '.join(code for code in operation['responses'] if not code.startswith('2'))}."


def _answer(response: dict[str, Any]) -> str:
    description = "" if response["description"] == "Successful Response" else response["description"]
    kinds = [f"{kind} {_named(part.get('schema', {}))}".strip() for kind, part in response.get("content", {}).items()]
    return " ".join(filter(None, [description, f"{', '.join(kinds)}." if kinds else "No body."]))


def _named(schema: dict[str, Any]) -> str:
    names = [part["$ref"].rsplit("/", 1)[-1] for part in [schema, *schema.get("anyOf", [])] if "$ref" in part]
    return " or ".join(f"`{name}`" for name in names)


def _form(schema: dict[str, Any]) -> str:
    inner = schema.get("items", schema)
    parts = [str(schema.get("type", "")), str(inner.get("format", ""))]
    if "enum" in inner:
        parts = [" or ".join(f"`{value}`" for value in inner["enum"])]
    parts += [f"{word} {inner[key]:g}" for key, word in (("minimum", "from"), ("maximum", "to")) if key in inner]
    if "default" in schema:
        parts.append(f"default `{schema['default']}`")
    return _cell(" ".join(filter(None, parts)))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page())
