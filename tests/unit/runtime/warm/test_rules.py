"""Rules for commands that a forked child may run in place of a plain start."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from rayplane.runtime.warm import rules
from rayplane.runtime.warm.rules import NotWarm, Run, Worker

PYTHON, WORKER = "/venv/bin/python", "/site/ray/_private/workers/default_worker.py"


def worker(context: Mapping[str, object] | None = None, *passed: str) -> Worker:
    arguments = ["/site/ray/_private/workers/setup_worker.py", *(passed or (WORKER, "--node-id=1"))]
    if context is not None:
        arguments.append(f"--serialized-runtime-env-context={json.dumps(context)}")
    return rules.parse_worker([*arguments, "--language=PYTHON"], python=[PYTHON], default_worker=WORKER)


@pytest.mark.parametrize(
    ("arguments", "run"),
    [
        (["-m", "jobs.train", "--x", "1"], Run("module", "jobs.train", ("--x", "1"))),
        (["-u", "-c", "print(1)", ""], Run("code", "print(1)", ("",))),
        (["train.py", "-m", "x"], Run("script", "train.py", ("-m", "x"))),
    ],
)
def test_a_module_code_or_script_is_run_with_its_arguments(arguments: list[str], run: Run) -> None:
    assert rules.parse(arguments) == run


@pytest.mark.parametrize("arguments", [[], ["-"], ["-i"], ["-O", "-m", "x"], ["-X", "dev", "x.py"], ["-m"], ["-mjobs"]])
def test_any_other_option_of_python_needs_a_plain_start(arguments: list[str]) -> None:
    with pytest.raises(NotWarm):
        rules.parse(arguments)


def test_a_worker_gets_its_folder_and_variables() -> None:
    context = {"command_prefix": ["cd", "/pkg", "&&"], "env_vars": {"A": "1"}, "py_executable": PYTHON}
    assert worker(context) == Worker(WORKER, ("--node-id=1",), "/pkg", {"A": "1"})
    assert worker() == worker({}) == Worker(WORKER, ("--node-id=1",), None, {})


def test_a_worker_without_a_runtime_environment_is_started_by_its_own_script() -> None:
    command = [WORKER, "--node-id=1", "--language=PYTHON"]
    assert rules.parse_worker(command, python=[PYTHON], default_worker=WORKER) == Worker(WORKER, tuple(command[1:]))


@pytest.mark.parametrize(
    "context",
    [
        {"py_executable": "/tmp/ray/pip/bin/python"},
        {"command_prefix": ["source", "activate", "&&"]},
        {"command_prefix": ["cd", "/pkg", "&&", "nsys", "profile"]},
        {"override_worker_entrypoint": "other.py"},
        {"java_jars": ["a.jar"]},
    ],
)
def test_a_worker_with_an_interpreter_or_commands_of_its_own_needs_a_plain_start(context: dict[str, object]) -> None:
    with pytest.raises(NotWarm):
        worker(context)


def test_the_server_of_ray_clients_needs_a_plain_start() -> None:
    with pytest.raises(NotWarm):
        worker({}, "-m", "ray.util.client.server")


@pytest.mark.parametrize("name", ["PYTHONHASHSEED", "OMP_NUM_THREADS", "ARROW_IO_THREADS", "LC_ALL", "TZ", "MLFLOW_X"])
def test_a_variable_that_is_read_at_import_must_have_the_same_value(name: str) -> None:
    rules.check_environment({name: "1", "A": "2"}, {name: "1"})
    for wanted, here in (({name: "1"}, {}), ({}, {name: "1"}), ({name: "1"}, {name: "2"})):
        with pytest.raises(NotWarm, match=name):
            rules.check_environment(wanted, here)


def test_variables_that_are_read_when_used_may_differ() -> None:
    late = ("MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI", "PYTHONPATH", "RAY_ADDRESS", "RAY_DATA_X", "SECRET", "HOME")
    rules.check_environment(dict.fromkeys(late, "1"), {})


def test_the_search_path_is_that_of_a_plain_start() -> None:
    path = rules.search_path("/job", "src:/a::/b:/lib", ["/lib", "/site"], "/cwd")
    assert path == ["/job", "/cwd/src", "/a", "/cwd", "/b", "/lib", "/site"]
    assert rules.search_path("", "", ["/lib"], "/cwd") == ["", "/lib"]


@pytest.mark.parametrize("entry", ["yaml.py", "yaml.so", "yaml.cpython-311-x86_64-linux-gnu.so", "yaml"])
def test_a_file_of_the_job_with_the_name_of_a_loaded_library_needs_a_plain_start(entry: str) -> None:
    folders = {"/job": [entry, "train.py"], "/job/yaml": ["__init__.py"]}
    with pytest.raises(NotWarm, match="yaml"):
        rules.check_shadows("/job", {"yaml", "ray"}, lambda folder: folders.get(folder, []))


def test_a_folder_that_is_no_package_shadows_nothing() -> None:
    folders = {"/job": ["platform", "yaml", "yaml.txt", "train.py"], "/job/yaml": ["data.csv"]}
    rules.check_shadows("/job", {"yaml", "platform"}, lambda folder: folders.get(folder, []))
