"""Remove one call to the API server from the adapter at a time, and run its contract without it.

    python -m tests.kubernetes.mutant            each site against its contract; one line of JSON for each

The call goes to a stand-in that does nothing and answers as plausibly as it can. Importing, which takes most of the
time, is done once: every run is a fork.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import rayplane
from rayplane.errors import NotFound

PACKAGE = "rayplane.gateway.backends.kubernetes"
MODULES = ("backend", "clusters", "jobs", "services", "owned_objects", "team_namespaces", "cache", "evidence_query")

_HERE = Path(__file__).parent
CONTRACT = [str(_HERE / "test_backend_contract.py")]
OF_OWN_NODES = [str(_HERE / "test_dedicated.py"), "-k", "TestJobs or TestServices or secrets or another_gateway"]
"""Tests that need the calls for jobs' and services' own nodes."""
OF_WHY = [str(_HERE / "test_evidence_query.py")]
"""Tests that need the calls that gather the evidence for `why`."""
_TESTS_OF = {"jobs": OF_OWN_NODES, "services": OF_OWN_NODES, "evidence_query": OF_WHY}
"""Tests that need the calls of a module; for other modules it is the contract of clusters."""
AT_ONCE = 2
"""Runs at a time: they wait for most of it."""
MOST_SECONDS = 600.0
BROKEN = 99
"""Exit code of a run that failed before its tests."""

_FOLDER = Path(str(rayplane.__file__)).parent / "gateway" / "backends" / "kubernetes"
_CALLS = {"apply", "merge", "get", "list", "delete", "pages", "watch", "create"}
_SHARED = {"apply", "delete", "merge", "put_secrets"}
"""Functions of owned_objects.py that call the API server for other modules."""


class Site(NamedTuple):
    """A call to the API server in the adapter's code."""

    module: str
    number: int
    line: int
    text: str

    @property
    def id(self) -> str:
        """Its name in the output: module and number."""
        return f"{self.module}:{self.number}"


def sites() -> list[Site]:
    """Every call of the adapter to the API server."""
    return [
        Site(module, number, call.lineno, ast.unparse(call))
        for module in MODULES
        for number, call in enumerate(_calls(ast.parse(_source(module))))
    ]


def main() -> int:
    """Run every mutant and the unchanged adapter, a few at a time; print each outcome as soon as it is known."""
    importlib.import_module(f"{PACKAGE}.backend")
    importlib.import_module("rayplane.testing.backend_contract")
    waiting: list[tuple[Site | None, list[str]]] = [(None, CONTRACT), (None, OF_OWN_NODES), (None, OF_WHY)]
    waiting += [(site, _TESTS_OF.get(site.module, CONTRACT)) for site in sites()]
    running: dict[int, Run] = {}
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            run = _start(*waiting.pop(0))
            running[run.pid] = run
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            print(json.dumps(_outcome(running.pop(pid), status)), flush=True)
            continue
        for run in running.values():
            if time.monotonic() - run.began > MOST_SECONDS:
                os.kill(run.pid, signal.SIGKILL)
        time.sleep(0.1)
    return 0


class Run(NamedTuple):
    """A running contract in a process of its own."""

    pid: int
    site: Site | None
    contract: list[str]
    output: Path
    began: float


def _start(site: Site | None, contract: list[str]) -> Run:
    with tempfile.NamedTemporaryFile(prefix="mutant-", delete=False) as file:
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            try:
                os._exit(_run(site, contract))
            except BaseException:  # noqa: BLE001  an error here is no verdict of the contract
                traceback.print_exc()
                os._exit(BROKEN)
    return Run(pid, site, contract, Path(file.name), time.monotonic())


def _run(site: Site | None, contract: list[str]) -> int:
    """Run in the fork: import the adapter and the tests again, over the mutant."""
    for name in [name for name in sys.modules if name.startswith((PACKAGE, "tests."))]:
        del sys.modules[name]
    if site is None:
        os.environ["TEST_PATIENCE"] = "60"  # nothing is missing, so waits end early
    else:
        install(site.module, site.number)
    return int(pytest.main(["-x", "-q", "--no-header", "-p", "no:cacheprovider", *contract]))


def _outcome(run: Run, status: int) -> dict[str, Any]:
    said = run.output.read_text(errors="replace")
    run.output.unlink()
    failed = [line for line in said.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return {
        "site": run.site.id if run.site is not None else "",
        "line": run.site.line if run.site is not None else 0,
        "call": run.site.text if run.site is not None else "nothing taken out",
        "code": os.waitstatus_to_exitcode(status),
        "by": failed[0].split(" - ")[0].rpartition("::")[2] if failed else "",
        "seconds": round(time.monotonic() - run.began, 1),
        "said": said[-3000:],
    }


def install(module: str, number: int) -> None:
    """Replace a module in this process by one without its n-th call."""
    tree = ast.parse(_source(module))
    call = list(_calls(tree))[number]
    assert isinstance(call.func, ast.Attribute)
    call.func.value = ast.Name("_deaf", ast.Load())
    ast.fix_missing_locations(tree)
    path = _FOLDER / f"{module}.py"
    spec = importlib.util.spec_from_file_location(f"{PACKAGE}.{module}", path)
    assert spec is not None
    mutant = importlib.util.module_from_spec(spec)
    mutant.__dict__["_deaf"] = Deaf()
    sys.modules[spec.name] = mutant
    exec(compile(tree, str(path), "exec"), mutant.__dict__)
    setattr(importlib.import_module(PACKAGE), module, mutant)


class Deaf:
    """Stand-in for the API server in a removed call."""

    def apply(self, *given: Any, **_: Any) -> dict[str, Any]:
        """As if it were applied."""
        manifest = given[-1]
        return {**manifest, "metadata": {**manifest["metadata"], **_MADE}}

    def merge(self, _: Any, name: Any, namespace: Any, change: dict[str, Any]) -> dict[str, Any]:
        """As if it were merged."""
        return {**change, "metadata": {"name": name, "namespace": namespace, **_MADE, **change.get("metadata", {})}}

    def get(self, *_: Any) -> Any:
        """There is none."""
        raise NotFound("There is none.")

    def list(self, *_: Any, **__: Any) -> Any:
        """There are none."""
        return _nothing()

    def pages(self, *_: Any, **__: Any) -> Iterator[Any]:
        """There are none."""
        yield _nothing()

    def watch(self, *_: Any, **__: Any) -> Iterator[Any]:
        """Nothing happens."""
        return iter(())

    def delete(self, *_: Any, **__: Any) -> None:
        """As if it were gone."""

    def put_secrets(self, *_: Any, **__: Any) -> None:
        """As if they were there."""


def _nothing() -> Any:
    return importlib.import_module(f"{PACKAGE}.api").Listing([], "0")


_MADE = {"uid": "deaf", "resourceVersion": "0", "creationTimestamp": "2026-01-01T00:00:00Z"}


def _source(module: str) -> str:
    return (_FOLDER / f"{module}.py").read_text()


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    """Calls of an ``api``, and of the functions of ``owned_objects`` that call it, in the order of the text."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _asks(node.func)]
    return iter(sorted(calls, key=lambda node: (node.lineno, node.col_offset)))


def _asks(called: ast.expr) -> bool:
    if not isinstance(called, ast.Attribute):
        return False
    if isinstance(called.value, ast.Name):
        return called.attr in {"owned_objects": _SHARED, "api": _CALLS}.get(called.value.id, ())
    return isinstance(called.value, ast.Attribute) and called.value.attr in ("api", "_api") and called.attr in _CALLS


if __name__ == "__main__":
    sys.exit(main())
