"""The limit on pre-flights under way."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rayplane.errors import Refused, Unavailable
from rayplane.gateway.admission.roles import Principal
from rayplane.gateway.usecases import plan as plans
from rayplane.gateway.usecases.preflights import Preflights
from rayplane.nouns.base import Document, Metadata


def test_a_preflight_returns_the_backends_reasons() -> None:
    assert Preflights().make(lambda: ["no room"]) == ["no room"]


def test_a_preflight_beyond_the_limit_is_refused_at_once_with_a_retry_time() -> None:
    few, go, begun = Preflights(at_once=2, waiting=0), threading.Event(), threading.Semaphore(0)

    def slow() -> list[str]:
        begun.release()
        assert go.wait(60)
        return []

    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(few.make, slow) for _ in range(2)]
        assert begun.acquire(timeout=60)
        assert begun.acquire(timeout=60)
        with pytest.raises(Unavailable, match="Pre-flight was not made: 2 others are under way") as caught:
            few.make(lambda: pytest.fail("it was made"))
        assert caught.value.fields["retry_after"] > 0
        go.set()
        assert [future.result(timeout=60) for future in running] == [[], []]
    assert few.make(lambda: ["made"]) == ["made"]


def test_a_waiting_preflight_gets_its_turn() -> None:
    few, go, begun = Preflights(at_once=1, waiting=1, patience=60), threading.Event(), threading.Event()

    def slow() -> list[str]:
        begun.set()
        assert go.wait(60)
        return ["first"]

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(few.make, slow)
        assert begun.wait(60)
        second = pool.submit(few.make, lambda: ["second"])
        go.set()
        assert (first.result(timeout=60), second.result(timeout=60)) == (["first"], ["second"])


def test_a_failed_preflight_frees_its_slot() -> None:
    one = Preflights(at_once=1, waiting=0)

    def fails() -> list[str]:
        raise Refused("no")

    for _ in range(3):
        with pytest.raises(Refused):
            one.make(fails)
    assert one.make(list) == []


def test_no_preflight_begins_after_the_time_is_over() -> None:
    with pytest.raises(Unavailable, match="Pre-flight was not made: the time for it is over"):
        Preflights().make(lambda: pytest.fail("it was made"), until=time.monotonic() - 1)


def document(name: str, **spec: Any) -> Document:
    return Document(kind="Cluster", metadata=Metadata(name=name, team="growth"), spec=spec)


def test_a_plan_whose_time_is_over_reports_the_preflights_that_it_did_not_make(
    bench: Any, ada: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "PLAN_PATIENCE", 0.0)
    answer = plans.plan([document("new")], team=None, principal=ada, platform=bench.platform)
    (refusal,) = answer.documents[0].forbidden
    assert (refusal.code, answer.allowed) == ("unavailable", False)
    assert refusal.message == "Pre-flight was not made: the time for it is over."


@pytest.mark.parametrize("role", ["viewer", "cluster"])
def test_no_backend_is_asked_for_principals_that_may_not_write(
    bench: Any, monkeypatch: pytest.MonkeyPatch, role: Any
) -> None:
    for port in (bench.backend.clusters, bench.backend.jobs, bench.backend.services):
        monkeypatch.setattr(port, "preflight", lambda *_: pytest.fail("a backend was asked"))
    reader = Principal(name="vi", role=role, team="growth")
    own = {"model": "models:/m@champion", "nodes": {"size": "small"}}
    answer = plans.plan(
        [
            document("new"),
            Document(kind="Service", metadata=Metadata(name="s", team="growth"), spec=own),
            Document(
                kind="Job",
                metadata=Metadata(name="j", team="growth"),
                spec={"entrypoint": "true", "nodes": {"size": "small"}},
            ),
        ],
        team=None,
        principal=reader,
        platform=bench.platform,
    )
    assert not answer.allowed
    assert all("may not write" in d.forbidden[0].message for d in answer.documents)
    assert [d.kind for d in answer.documents if plans.NOT_ASKED in d.warnings] == ["Cluster", "Job", "Service"]
