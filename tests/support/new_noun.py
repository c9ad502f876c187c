"""Add a row to the table of nouns, and use the noun by HTTP, by plan and by the command line: prints JSON.

``python -m tests.support.new_noun FOLDER``: a process of its own, since everything else reads the table when it is
imported.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rayplane import nouns
from rayplane.nouns.noun_type import NounType

nouns.NOUNS = (
    *nouns.NOUNS,
    NounType(
        kind="Widget",
        singular="widget",
        plural="widgets",
        help="Things of a colour.",
        spec_code="tests.support.widget:WidgetSpec",
        status_code="tests.support.widget:WidgetStatus",
        columns=(("PHASE", "status.phase"), ("COLOUR", "spec.colour")),
    ),
)


def by_http(folder: Path) -> dict[str, Any]:
    """Answers of the API about a widget: to each common verb, to a plan, and its paths in the document."""
    from fastapi.testclient import TestClient

    from rayplane.gateway.api.app import create_app
    from tests.unit.gateway.api.served import platform_without_compute

    with platform_without_compute(folder) as platform:
        token = platform.settings.home_paths.token.read_text().strip()
        api = TestClient(create_app(platform), headers={"Authorization": f"Bearer {token}"})
        api.put("/v1/teams/growth", json={"spec": {}})
        base, body = "/v1/teams/growth/widgets", {"spec": {"colour": "blue"}}
        document = {"kind": "Widget", "metadata": {"name": "one"}, **body}
        return {
            "refused": api.put(f"{base}/one", json={"spec": {"color": "blue"}}).json()["detail"],
            "planned": api.post("/v1/plan", json={"documents": [document], "team": "growth"}).json()["documents"],
            "put": api.put(f"{base}/one", json=body).status_code,
            "get": api.get(f"{base}/one").json(),
            "list": api.get(base).json()["items"],
            "why": api.get(f"{base}/one/why").json(),
            "paths": sorted(p for p in api.get("/openapi.json").json()["paths"] if "widgets" in p),
            "delete": api.delete(f"{base}/one").status_code,
            "gone": api.get(f"{base}/one").status_code,
        }


def by_command() -> dict[str, Any]:
    """The noun's line in the command line's help, and the verbs of its group."""
    import typer

    from rayplane import plugins
    from rayplane.client.cli.main import COMMANDS, Lazy

    code, line = COMMANDS["widget"]
    group = typer.main.get_command(plugins.resolve(code))
    assert isinstance(group, typer.core.TyperGroup)
    return {"line": line, "verbs": sorted(group.commands), "listed": "widget" in Lazy().list_commands(None)}


if __name__ == "__main__":
    print(json.dumps({"http": by_http(Path(sys.argv[1])), "command": by_command()}))
