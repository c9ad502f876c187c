"""The page of each noun: its example is applied, and the phases, conditions, commands and links on it exist."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from rayplane.client.sdk import Client
from rayplane.nouns import NOUNS, RUN
from rayplane.nouns.base import Spec
from rayplane.nouns.noun_type import AnyNoun
from tests.support import reference
from tests.unit.client.command import run
from tests.unit.gateway.api.served import platform_without_compute, serve

FOLDER = reference.FOLDER / "nouns"
SINGULARS = [noun.singular for noun in NOUNS]
BY_SINGULAR = {noun.singular: noun for noun in NOUNS}
SETTERS = (reference.PLATFORM / "gateway" / "reconcile", reference.PLATFORM / "gateway" / "usecases")
"""Folders of the code that sets conditions."""


def page(singular: str) -> str:
    """The text of a noun's page."""
    return (FOLDER / f"{singular}.md").read_text()


def blocks(singular: str, language: str) -> list[str]:
    """The code blocks of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page(singular), re.MULTILINE | re.DOTALL)


def cells(text: str, head: str) -> list[str]:
    """The first cells of the tables whose first heading is ``head``."""
    tables = re.findall(rf"^\| {head} \|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    return re.findall(r"^\| `(\w+)` \|", "".join(tables), re.MULTILINE)


def phases_of(noun: AnyNoun) -> set[str]:
    """The phases that the docstring of a noun's status lists."""
    listed = re.search(r"Phases?: ([\w, ]+)\.", noun.status.__doc__ or "")
    assert listed is not None, noun.kind
    return set(listed[1].split(", "))


def conditions_in_code() -> set[str]:
    """The types of all conditions that the code sets."""
    code = "".join(path.read_text() for folder in SETTERS for path in sorted(folder.rglob("*.py")))
    return {
        *re.findall(r"set_condition\(\s*\"(\w+)\"", code),
        *re.findall(r"\bReport\(\s*\"(\w+)\"", code),
        *re.findall(r"^CONDITION = \"(\w+)\"", code, re.MULTILINE),
    }


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """The local user's client of an empty platform, and the environment of its commands."""
    with platform_without_compute(tmp_path) as platform, serve(platform) as url:
        monkeypatch.setenv("RAYPLANE_URL", url)
        monkeypatch.setenv("RAYPLANE_TOKEN_PATH", str(platform.settings.home_paths.token))
        monkeypatch.delenv("RAYPLANE_TEAM", raising=False)
        with Client() as made:
            yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with some code, to save the examples in."""
    made = tmp_path / "code"
    (made / "jobs").mkdir(parents=True)
    (made / "jobs" / "train.py").write_text("print('hello')\n")
    return made


def test_there_is_a_page_for_each_noun_and_no_other() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(SINGULARS)


@pytest.mark.parametrize("singular", SINGULARS)
def test_the_example_of_a_page_is_applied(
    client: Client, folder: Path, capsys: pytest.CaptureFixture[str], singular: str
) -> None:
    [example] = blocks(singular, "yaml")
    document = yaml.safe_load(example)
    noun = BY_SINGULAR[singular]
    assert document["kind"] == noun.kind
    # The examples belong together: a job's needs the team and the cluster of theirs.
    for before in ("team", "cluster"):
        if SINGULARS.index(before) < SINGULARS.index(singular):
            (folder / "before.yaml").write_text(blocks(before, "yaml")[0])
            assert run(capsys, "apply", "-f", str(folder / "before.yaml"))[0] == 0
    file = folder / f"{singular}.yaml"
    file.write_text(example)
    code, out, err = run(capsys, "apply", "-f", str(file))
    assert (code, "created" in out) == (0, True), out + err
    code, out, err = run(capsys, "apply", "-f", str(file))
    assert (code, "unchanged" in out) == (0, True), out + err
    code, out, err = run(capsys, "plan", "-f", str(file))
    assert code == 0, out + err
    stored = getattr(client, noun.plural).get(document["metadata"].get("team", ""), document["metadata"]["name"])
    assert as_parsed(noun, stored.spec) == as_parsed(noun, {**document["spec"], "package": stored.spec.get("package")})


def as_parsed(noun: AnyNoun, spec: dict[str, object]) -> Spec:
    """A spec with short forms written out and defaults filled in."""
    return noun.spec.model_validate({name: value for name, value in spec.items() if value is not None})


@pytest.mark.parametrize("singular", SINGULARS)
def test_a_page_lists_exactly_the_phases_of_its_noun(singular: str) -> None:
    heads = ("phase", "phase of a pipeline")
    assert {name for head in heads for name in cells(page(singular), head)} == phases_of(BY_SINGULAR[singular])


def test_the_page_of_pipelines_lists_exactly_the_phases_of_a_run() -> None:
    assert set(cells(page("pipeline"), "phase of a run")) == phases_of(RUN)


@pytest.mark.parametrize("singular", SINGULARS)
def test_a_page_lists_conditions_that_the_code_sets(singular: str) -> None:
    conditions = cells(page(singular), "condition")
    assert "Ready" in conditions
    assert set(conditions) - conditions_in_code() == set()


def test_each_condition_that_the_code_sets_is_on_a_page() -> None:
    listed = {name for singular in SINGULARS for name in cells(page(singular), "condition")}
    assert len(conditions_in_code()) > 10
    assert conditions_in_code() - listed == set()


@pytest.mark.parametrize("singular", SINGULARS)
def test_the_commands_of_a_page_exist_with_their_options(singular: str) -> None:
    commands = reference.commands()
    lines = [line for block in blocks(singular, "console") for line in block.splitlines()]
    assert lines
    for line in lines:
        words = shlex.split(line.partition(" #")[0])
        name = next((" ".join(words[:n]) for n in (3, 2) if " ".join(words[:n]) in commands), None)
        assert name is not None, line
        own = words[: words.index("--")] if "--" in words else words
        options = {
            option for each in reference.options(commands[name]) for option in (*each.opts, *each.secondary_opts)
        }
        assert {word for word in own if word.startswith("-")} - options == set(), line


def public_names(module: str) -> set[str]:
    """Names of a module of ``rayplane.runtime``, read from its source: importing it would import Feast or MLflow."""
    folder = reference.PLATFORM / "runtime"
    package = folder / module / "__init__.py"
    tree = ast.parse((package if package.is_file() else folder / f"{module}.py").read_text())
    listed = [
        node.value for node in tree.body if isinstance(node, ast.Assign) and "__all__" in ast.unparse(node.targets[0])
    ]
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return defined | {str(name) for value in listed for name in ast.literal_eval(value)}


@pytest.mark.parametrize("singular", [each for each in SINGULARS if "```python" in page(each)])
def test_the_functions_of_a_page_exist(singular: str) -> None:
    used: set[tuple[str, str]] = set()
    for block in blocks(singular, "python"):
        tree = ast.parse(block)
        modules = {
            alias.name
            for node in tree.body
            if isinstance(node, ast.ImportFrom) and node.module == "rayplane.runtime"
            for alias in node.names
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
                used.add((node.value.id, node.attr))
    assert used
    assert {(module, name) for module, name in used if name not in public_names(module)} == set()


@pytest.mark.parametrize("singular", SINGULARS)
def test_the_links_of_a_page_lead_somewhere(singular: str) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#([^)]+))?\)", page(singular))
    assert links
    for target, section in links:
        path = (FOLDER / target).resolve()
        assert path.is_file(), target
        if section:
            titles = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
            assert section in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}, section


@pytest.mark.parametrize("singular", SINGULARS)
def test_a_page_is_short(singular: str) -> None:
    assert 40 <= len(page(singular).splitlines()) <= 90
