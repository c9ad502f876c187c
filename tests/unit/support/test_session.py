"""A session of pytest fails for a process that it left running and, in CI, for a test that it skipped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import session

ROOT = Path(__file__).parents[3]

LEAKS = """
import subprocess
def test_that_leaks():
    subprocess.Popen(["sleep", "600"], start_new_session=True)
"""
STOPS = """
import subprocess
def test_that_stops_what_it_starts():
    child = subprocess.Popen(["sleep", "600"])
    child.kill()
    child.wait()
"""
SKIPS = """
import pytest
def test_that_is_skipped():
    pytest.skip("there is no moon tonight")
@pytest.mark.xfail(reason="known")
def test_that_is_expected_to_fail():
    assert False
"""
SKIPS_A_MODULE = """
import pytest
pytest.importorskip("no_such_module")
"""


@pytest.fixture
def run(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


class Runner:
    """Runs pytest on a test file in a process and a session of its own."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "test_it.py"

    def __call__(self, text: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        self._file.write_text(text)
        kept = {k: v for k, v in os.environ.items() if k not in (session.MARK, "CI")}
        plugins = ["-p", "tests.support.session", "-p", "no:cacheprovider"]
        return subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-c",
                os.devnull,
                *plugins,
                f"--rootdir={self._file.parent}",
                *options,
                self._file,
            ],
            cwd=ROOT,
            env={**kept, **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


def test_a_process_left_running_fails_the_session_is_named_and_stopped(run: Runner) -> None:
    done = run(LEAKS, "-o", f"{session.GRACE}=1")
    assert done.returncode == 1, done.stdout
    assert "1 passed" in done.stdout
    line = next(line for line in done.stdout.splitlines() if line.startswith("left running: process "))
    assert line.endswith("sleep 600")
    pid = int(line.removeprefix("left running: process ").split(":")[0])
    assert not Path(f"/proc/{pid}/cmdline").exists() or Path(f"/proc/{pid}/cmdline").read_bytes() == b""


def test_a_session_that_stops_what_it_starts_passes(run: Runner) -> None:
    done = run(STOPS)
    assert done.returncode == 0, done.stdout


def test_a_skip_passes_on_a_developers_machine(run: Runner) -> None:
    assert run(SKIPS).returncode == 0


def test_a_skip_fails_in_ci_with_its_reason(run: Runner) -> None:
    done = run(SKIPS, CI="true")
    assert done.returncode == 1
    assert "skipped in CI: " in done.stdout
    assert "there is no moon tonight" in done.stdout.split("the session fails")[1]
    assert "expected_to_fail" not in done.stdout.split("the session fails")[1]


def test_a_module_that_skips_itself_fails_in_ci(run: Runner) -> None:
    done = run(SKIPS_A_MODULE, CI="true")
    assert done.returncode == 1
    assert "no_such_module" in done.stdout.split("the session fails")[1]


def test_the_developers_own_platform_is_out_of_reach(run: Runner) -> None:
    done = run("import os\ndef test_it(): assert 'RAYPLANE_URL' not in os.environ", RAYPLANE_URL="http://127.0.0.1:1")
    assert done.returncode == 0, done.stdout


def test_with_workers_a_process_left_running_and_a_skip_fail_the_session_too(run: Runner) -> None:
    done = run(LEAKS + SKIPS, "-n1", "--dist=loadscope", "-o", f"{session.GRACE}=1", CI="true")
    assert done.returncode == 1, done.stdout
    verdict = done.stdout.split("the session fails")[1]
    assert "sleep 600" in verdict
    assert "there is no moon tonight" in verdict
    assert verdict.count("left running: ") == 1, "the workers themselves have ended"


def test_with_workers_a_module_that_skips_itself_fails_in_ci(run: Runner) -> None:
    done = run(SKIPS_A_MODULE, "-n2", "--dist=loadscope", CI="true")
    assert done.returncode == 1
    assert done.stdout.split("the session fails")[1].count("skipped in CI: ") == 1


def test_the_shared_platforms_tests_stay_together_and_other_modules_for_themselves() -> None:
    shared = session.group("tests/system/test_flights.py::test_a")
    assert session.group("tests/docs/test_notebook.py::test_b[x::y]") == shared
    assert session.group("tests/system/test_cluster_and_job.py::test_c") == "tests/system/test_cluster_and_job.py"
    assert session.group("tests/unit/test_house.py::test_d") == "tests/unit/test_house.py"


def test_the_tests_of_a_bed_of_kubernetes_stay_together() -> None:
    node = session.group("tests/kubernetes/test_why_node.py::test_a")
    assert session.group("tests/kubernetes/test_platform_on_a_node.py::test_b") == node
    others = session.group("tests/kubernetes/test_backend.py::test_c")
    assert session.group("tests/kubernetes/preflight/test_differential.py::test_d") == others != node
