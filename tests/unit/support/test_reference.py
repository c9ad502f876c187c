"""The reference pages are up to date, and name each setting, command, field and metric that the code has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from rayplane.gateway import metrics
from rayplane.nouns import NOUNS, RUN
from tests.support import reference

ROOT = reference.ROOT
SOURCES = ("platform", "jobs", "serving", "features", "deploy", ".ci", "Makefile")
"""Files and folders that may read a variable or name a metric, besides the tests."""


def texts(*suffixes: str) -> Iterator[tuple[Path, str]]:
    """The files of ``SOURCES``: all, or those with one of these suffixes."""
    for name in SOURCES:
        path = ROOT / name
        for file in [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file()):
            if file.suffix != ".pyc" and (not suffixes or file.suffix in suffixes):
                yield file, file.read_text()


def in_first_cells(page: str) -> set[str]:
    """The names in the first column of a page's tables."""
    return {name for row in re.findall(r"^\| (.+?) \|", page, re.MULTILINE) for name in re.findall(r"`([^`]+)`", row)}


@pytest.mark.parametrize("name", reference.PAGES)
def test_a_reference_page_is_up_to_date(name: str) -> None:
    is_current = reference.path_of(name).read_text() == reference.page(name)
    assert is_current, f"docs/reference/{name}.md is not current: run 'python -m tests.support.reference {name}'"


def test_each_variable_in_the_source_is_on_the_page_of_settings() -> None:
    page = in_first_cells(reference.page("settings"))
    named: dict[str, Path] = {}
    for path, text in texts():
        # Not RAYPLANE_ alone or with an open end, which are prefixes, nor a name with a placeholder.
        for name in re.findall(r"(?<![\w{])RAYPLANE_[A-Z][A-Z_]*[A-Z](?![\w{*])", text):
            named[name] = path
        for name in re.findall(r"environ(?:ment)?\.get\(\"([A-Z_]+)\"", text):
            named[name] = path
    of_processes = {"PATH", "PYTHONPATH"}
    assert len(named) > 30
    assert {name: str(path) for name, path in named.items() if name not in page | of_processes} == {}


def test_each_variable_on_the_page_of_settings_is_in_the_source() -> None:
    source = "".join(text for _, text in texts()) + (ROOT / "tests" / "support" / "session.py").read_text()
    assert [each.name for each in reference.VARIABLES if each.name not in source] == []


@pytest.mark.parametrize("name", ["settings", "specs"])
def test_a_meaning_is_a_sentence(name: str) -> None:
    rows = re.findall(r"^\| `.*\| (.*) \|$", reference.page(name), re.MULTILINE)
    assert len(rows) > 50
    assert [row for row in rows if row[-1:] not in (".", ")")] == []


def test_each_metric_in_the_source_is_on_the_page_of_metrics() -> None:
    page = in_first_cells(reference.page("metrics"))
    exported = {re.sub("_total$", "", name.removeprefix("ray_")) for name in page if "rayplane_" in name}
    declared = {
        re.sub("_total$", "", name)
        for path, text in texts(".py")
        if "prometheus_client" in text or "ray.serve" in text or "ray.util" in text
        for name in re.findall(r"\"(rayplane_[a-z_]+)\"", text)
    }
    assert declared == exported


def test_each_metric_of_the_registry_is_on_the_page_with_its_type_and_labels() -> None:
    metrics.REQUESTS.labels("GET", "/", "200")
    metrics.REQUEST_SECONDS.labels("GET", "/")
    declared = {re.sub("_total$", "", each.name): each for each in reference.metrics_of(reference.GATEWAY_METRICS)}
    collected = list(metrics.REGISTRY.collect())
    assert {each.name: each.type for each in collected} == {name: each.type for name, each in declared.items()}
    assert [each.documentation for each in collected] == [each.meaning for each in declared.values()]
    labels = {
        name: set(each.labels) | ({"le"} if each.type == "histogram" else set()) for name, each in declared.items()
    }
    for each in collected:
        assert {key for sample in each.samples for key in sample.labels} <= labels[each.name]


def test_each_metric_that_rules_and_dashboards_use_is_on_the_page() -> None:
    page = in_first_cells(reference.page("metrics"))
    used = {
        re.sub("_(bucket|sum|count)$", "", name)
        for path, text in texts(".yml", ".json")
        for name in re.findall(r"(?<![\w/])(?:ray_)?rayplane_[a-z_]+", text)
    }
    assert len(used) > 5
    assert used - page == set()


def test_the_page_of_specs_has_each_field_of_each_kind() -> None:
    page = reference.page("specs")
    for noun in (*NOUNS, RUN):
        for model in (noun.spec, noun.status):
            section = page.partition(f"### {model.__name__}\n")[2].partition("\n#")[0]
            assert in_first_cells(section) == set(model.model_fields)


def test_each_link_within_the_page_of_specs_leads_to_a_section() -> None:
    page = reference.page("specs")
    sections = {title.lower() for title in re.findall(r"^#+ (\w+)$", page, re.MULTILINE)}
    links = set(re.findall(r"\]\(#(\w+)\)", page))
    assert links
    assert links - sections == set()


def test_the_page_of_commands_has_each_command_with_its_options() -> None:
    page, commands = reference.page("cli"), reference.commands()
    assert len(commands) > 40
    for words, command in commands.items():
        section = page.partition(f"\n## `{words}`\n")[2].partition("\n## ")[0]
        assert {name for option in reference.options(command) for name in option.opts} <= in_first_cells(section), words


def test_the_configuration_of_the_pod_on_kubernetes_sets_known_variables() -> None:
    page = in_first_cells(reference.page("settings"))
    documents = yaml.safe_load_all((ROOT / "deploy" / "kubernetes" / "platform.yaml").read_text())
    maps = [each["data"] for each in documents if each["kind"] == "ConfigMap"]
    assert maps
    assert {name for data in maps for name in data} - page == set()
