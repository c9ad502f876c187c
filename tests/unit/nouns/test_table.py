"""The table of nouns: a row makes a noun's routes and command group, and importing the table imports no spec."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rayplane.client.cli.main import COMMANDS
from rayplane.nouns import NOUNS, RUN
from rayplane.nouns.base import Spec, Status
from rayplane.nouns.noun_type import NounType

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("noun", [*NOUNS, RUN], ids=lambda noun: noun.kind)
def test_the_spec_and_status_of_each_noun_are_where_its_row_says(noun: NounType) -> None:
    assert issubclass(noun.spec, Spec)
    assert issubclass(noun.status, Status)
    assert noun.help.endswith(".")


def test_the_command_line_has_a_group_for_each_noun() -> None:
    assert [(name, COMMANDS[name][1]) for name in COMMANDS if name in {noun.singular for noun in NOUNS}] == [
        (noun.singular, noun.help) for noun in NOUNS
    ]


@pytest.fixture(scope="module")
def ninth(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Answers about a noun of which there is a row alone."""
    folder: Path = tmp_path_factory.mktemp("widgets")
    command = [sys.executable, "-m", "tests.support.new_noun", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_row_alone_makes_the_routes_of_a_noun(ninth: Any) -> None:
    answers = ninth["http"]
    assert "Did you mean 'colour'?" in answers["refused"]
    assert (answers["put"], answers["delete"], answers["gone"]) == (201, 202, 404)
    assert answers["get"]["spec"] == {"colour": "blue"}
    assert answers["get"]["status"]["phase"] == "Ready"
    assert [item["metadata"]["name"] for item in answers["list"]] == ["one"]
    assert answers["why"]["causes"] == []
    item = "/v1/teams/{team}/widgets/{name}"
    assert answers["paths"] == ["/v1/teams/{team}/widgets", item, f"{item}/why"]


def test_a_row_alone_is_enough_to_plan_an_object_of_a_noun(ninth: Any) -> None:
    (document,) = ninth["http"]["planned"]
    assert (document["kind"], document["change"], document["forbidden"]) == ("Widget", "created", [])


def test_a_row_alone_makes_the_command_group_of_a_noun(ninth: Any) -> None:
    assert ninth["command"] == {
        "line": "Things of a colour.",
        "verbs": ["delete", "get", "list", "why"],
        "listed": True,
    }
