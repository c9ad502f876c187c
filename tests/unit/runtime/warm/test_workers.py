"""Ray's workers forked from a warm interpreter: each with its own environment and package, isolated. Real Ray."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.warm import Warm, local_ray

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _ray(warm: Warm) -> Iterator[None]:
    with local_ray(warm, num_cpus=2, object_store_memory=100_000_000):
        yield


def look(module: str = "pandas") -> dict[str, Any]:
    """Facts about the worker process, gathered in it."""
    import sys

    return {
        "parent": os.getppid(),
        "loaded": module in sys.modules,
        "folder": os.getcwd(),
        "variable": os.environ.get("VARIABLE"),
        "group": os.getpgrp(),
        "pid": os.getpid(),
    }


def in_worker(function: Any, *arguments: Any, **options: Any) -> Any:
    import ray

    remote: Any = ray.remote(function)
    return ray.get(remote.options(**options).remote(*arguments))


def test_a_worker_is_forked_with_the_libraries_and_has_a_group_of_its_own(warm: Warm) -> None:
    worker = in_worker(look)
    assert (worker["parent"], worker["loaded"]) == (warm.process.pid, True)
    assert worker["group"] != os.getpgid(warm.process.pid)


def test_variables_and_package_of_a_runtime_environment_reach_a_forked_worker(warm: Warm, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "package.zip", "w") as package:
        package.writestr("of_the_package.py", "value = 7")
        package.writestr("beside.txt", "")
    environment = {"env_vars": {"VARIABLE": "${HOME}/x"}, "working_dir": (tmp_path / "package.zip").as_uri()}

    def use() -> tuple[int, dict[str, Any]]:
        import of_the_package  # type: ignore[import-not-found]

        return of_the_package.value, look()

    value, worker = in_worker(use, runtime_env=environment)
    assert value == 7
    assert worker["parent"] == warm.process.pid
    assert worker["variable"] == f"{os.environ['HOME']}/x"
    assert worker["folder"] != os.getcwd()


def test_a_worker_with_a_variable_that_is_read_at_import_gets_a_plain_start(warm: Warm) -> None:
    worker = in_worker(look, runtime_env={"env_vars": {"OMP_NUM_THREADS": "2", "VARIABLE": "x"}})
    assert (worker["parent"] != warm.process.pid, worker["loaded"], worker["variable"]) == (True, False, "x")


def test_a_workers_patch_of_a_library_reaches_no_other_worker(warm: Warm) -> None:
    def patch() -> int:
        import json

        json.dumps = None  # type: ignore[assignment]
        return os.getpid()

    def is_whole() -> tuple[int, bool]:
        import json

        return os.getpid(), json.dumps is not None

    # Different environments, so that Ray can't run both in one worker.
    patched = in_worker(patch, runtime_env={"env_vars": {"VARIABLE": "1"}})
    other, whole = in_worker(is_whole, runtime_env={"env_vars": {"VARIABLE": "2"}})
    assert whole
    assert other != patched


def test_random_numbers_of_two_workers_differ(warm: Warm) -> None:
    def draw() -> list[float]:
        import random

        import numpy

        return [random.random(), float(numpy.random.rand())]

    first, second = (in_worker(draw, runtime_env={"env_vars": {"VARIABLE": name}}) for name in ("3", "4"))
    assert not set(first) & set(second)


def test_a_worker_that_dies_is_reported_and_the_next_is_forked(warm: Warm) -> None:
    import ray

    def die() -> None:
        os._exit(1)

    with pytest.raises(ray.exceptions.WorkerCrashedError):
        in_worker(die, max_retries=0)
    assert in_worker(look)["parent"] == warm.process.pid
