"""Fixtures of the Kubernetes tests: one bed of each level for the session, or the cluster that KUBECONFIG names."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest

from rayplane.errors import Unavailable, Unsupported
from tests.kubernetes import gateway
from tests.kubernetes.bed import level_a as a
from tests.kubernetes.bed import level_b as b
from tests.kubernetes.bed.existing import existing
from tests.kubernetes.bed.level_a import LevelA
from tests.kubernetes.bed.level_b import LevelB

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test below this folder needs Kubernetes. Those in ``*_node.py`` need a real node."""
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.kubernetes)
            on_node = "level_b" in getattr(item, "fixturenames", ())
            assert not on_node or item.path.name.endswith("_node.py"), f"{item.path} uses a node and is not named so"
    # The mutants use both cores for minutes: they run first, so that they are done when the other worker trains models.
    items.sort(key=lambda item: item.path.name != "test_mutations.py")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what passed tests printed: pods' uids, versions, times and answers are the evidence that they ran."""
    for report in terminalreporter.stats.get("passed", []):
        if report.capstdout and Path(report.fspath).is_relative_to(Path("tests", "kubernetes")):
            terminalreporter.write_line(f"{report.nodeid}:")
            for line in report.capstdout.splitlines():
                terminalreporter.write_line(f"  {line}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Skip a test that needs a bed of the tests' own when they run on an existing cluster."""
    try:
        return (yield)
    except Unsupported as error:
        if "KUBECONFIG" in os.environ and item.path.is_relative_to(_HERE):
            pytest.skip(str(error))
        raise


@pytest.fixture(scope="session")
def level_a(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LevelA]:
    """A running bed of level A, shared by the session: a test has namespaces of its own, and starts what it stops."""
    bed: AbstractContextManager[Any] = a.level_a(say=_say)
    if "KUBECONFIG" in os.environ:
        bed = existing(Path(os.environ["KUBECONFIG"]), tmp_path_factory.mktemp("kubeconfigs"))
    yield from _shared(bed)


@pytest.fixture(scope="module")
def kubeconfig(level_a: LevelA) -> Path:
    """Kubeconfig of the gateway's own service account, with the role of deploy/."""
    return gateway.install(level_a)


@pytest.fixture(scope="session")
def level_b() -> Iterator[LevelB]:
    """A running bed of level B, shared by the session like that of level A; two cores, so no test may ask for much."""
    if "KUBECONFIG" in os.environ:
        pytest.skip("tests on a real node need one of their own: unset KUBECONFIG")
    yield from _shared(b.level_b(say=_say))


def _shared(bed: AbstractContextManager[Any]) -> Iterator[Any]:
    with ExitStack() as stack:
        try:
            up = stack.enter_context(bed)
        except Unavailable as error:
            pytest.skip(str(error))
        yield up
    assert up.left_over() == [], "the bed left something behind"


def _say(line: str) -> None:
    print(f"bed: {line}", file=sys.__stderr__, flush=True)
