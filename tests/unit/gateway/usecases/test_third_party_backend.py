"""A third party's backend by its name in a spec: it is known to apply and plan, and asked before a cluster is made."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rayplane import plugins
from rayplane.errors import InvalidSpec, Refused
from rayplane.gateway.usecases.plan import plan
from rayplane.nouns.base import Document, Metadata
from rayplane.processes import free_port
from tests.unit.gateway.usecases.conftest import ADA, Bench

PAID = {"cost-center": "4711"}


@pytest.fixture
def acme(bench: Bench, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """The platform with the third party's backend, whose cluster does not run."""
    request.getfixturevalue("third_party")
    monkeypatch.setenv("ACME_LAB", f"http://127.0.0.1:{free_port()}")
    settings = bench.platform.settings
    bench.platform = replace(bench.platform, readers=lambda name: plugins.load("backends", name)(settings))
    return bench


def planned(bench: Bench, backend: str) -> list[str]:
    """All messages with which plan forbids a cluster on a backend."""
    metadata = Metadata(name="lab", team="growth", labels=PAID)
    document = Document(kind="Cluster", metadata=metadata, spec={"backend": backend})
    (answer,) = plan([document], team=None, principal=ADA, platform=bench.platform).documents
    return [refusal.message for refusal in answer.forbidden]


def test_a_cluster_on_a_third_partys_backend_is_refused_for_what_that_backend_says(acme: Bench) -> None:
    with pytest.raises(Refused, match="Ray does not answer at") as refused:
        acme.apply("Cluster", "lab", {"backend": "lab"}, labels=PAID)
    assert planned(acme, "lab") == refused.value.fields["reasons"]


def test_a_misspelt_backend_is_refused_with_the_nearest_known_one(acme: Bench) -> None:
    with pytest.raises(InvalidSpec, match=r"cluster\.backend: 'labb' is unknown\. Did you mean 'lab'\?"):
        acme.apply("Cluster", "lab", {"backend": "labb"}, labels=PAID)
    assert planned(acme, "labb") == ["cluster.backend: 'labb' is unknown."]
