"""Typed objects: parsed at first use, and readable whatever an older version stored."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.gateway.store import Store
from rayplane.gateway.store.typed import TypedObject
from rayplane.nouns import CLUSTER, JOB, NOUNS, RUN
from rayplane.nouns.base import Metadata, as_stored
from rayplane.nouns.cluster import ClusterSpec
from rayplane.nouns.job import JobSpec, JobStatus
from rayplane.nouns.noun_type import AnyNoun
from rayplane.nouns.pipeline import RunSpec

KINDS = [*NOUNS, RUN]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=8), inner, max_size=2),
    max_leaves=5,
)


def stored(noun: AnyNoun) -> st.SearchStrategy[dict[str, Any]]:
    """Specs and statuses that only an odd older version could have stored."""
    fields = [*noun.spec.model_fields, *noun.status.model_fields, "unknown"]
    return st.dictionaries(st.sampled_from(fields), VALUES, max_size=4)


@pytest.mark.parametrize("noun", KINDS, ids=lambda noun: noun.kind)
@given(data=st.data())
def test_no_stored_row_is_hidden_by_a_stricter_rule(noun: AnyNoun, data: st.DataObject) -> None:
    obj = TypedObject(noun.kind, Metadata(name="x"), data.draw(stored(noun)), data.draw(stored(noun)))
    for model, values in ((noun.spec, obj.spec), (noun.status, obj.status_copy())):
        assert type(values) is model
        # It can be written again.
        assert set(json.loads(values.model_dump_json(warnings=False))) == set(model.model_fields)


@pytest.mark.parametrize("value", [None, 7, "x", []])
def test_data_that_is_no_mapping_counts_as_empty(value: Any) -> None:
    assert as_stored(RunSpec, {"pipeline": "nightly", "snapshot": value}).pipeline_spec.steps is None


def test_a_mapping_in_the_place_of_a_list_stays_as_it_is() -> None:
    assert as_stored(JobStatus, {"conditions": {"type": "Ready"}}).conditions == {"type": "Ready"}


def test_a_value_in_the_place_of_an_instant_is_written_back() -> None:
    assert as_stored(JobStatus, {"ended_at": "long ago"}).model_dump(mode="json")["ended_at"] == "long ago"


def test_a_spec_that_fits_todays_rules_is_parsed_by_them() -> None:
    assert as_stored(ClusterSpec, {"idle_timeout": "30m"}) == ClusterSpec(idle_timeout=1800.0)


def test_of_a_spec_that_does_not_fit_each_field_that_fits_is_parsed() -> None:
    spec = as_stored(ClusterSpec, {"size": "UPPER", "idle_timeout": "30m", "workers": {"max": 3, "gone": 1}, "gone": 1})
    assert (spec.size, spec.idle_timeout, spec.workers.max, spec.workers.min) == ("UPPER", 1800.0, 3, 0)
    assert not hasattr(spec, "gone")


def test_a_spec_that_breaks_a_rule_across_fields_is_read() -> None:
    with pytest.raises(ValueError, match="say where"):
        JobSpec(entrypoint="true")
    spec = as_stored(JobSpec, {"entrypoint": "true"})
    assert (spec.entrypoint, spec.cluster, spec.nodes) == ("true", None, None)


def test_a_required_field_that_an_older_version_did_not_store_is_none() -> None:
    assert as_stored(JobSpec, {"cluster": "dev"}).entrypoint is None


def test_a_changed_copy_leaves_the_objects_own_status_as_it_is(store: Store) -> None:
    store.put("Cluster", "growth", "dev", {}, owner="ada", status={"phase": "Ready"})
    cluster = store.get(CLUSTER, "growth", "dev")
    copy = cluster.status_copy()
    copy.phase = "Failed"
    copy.set_condition("Ready", False, "Gone", "", 1)
    assert (cluster.status.phase, cluster.status.conditions) == ("Ready", [])
    assert store.set_status(cluster.metadata.uid, copy).status.phase == "Failed"


def test_an_object_is_shown_as_it_is_stored_also_if_its_noun_does_not_know_it(store: Store) -> None:
    spec = {"entrypoint": "true", "of_an_older_version": {"b": 1, "a": 2}}
    store.put("Job", "growth", "train", spec, owner="ada", status={"phase": "Pending", "older": 1})
    job = store.get(JOB, "growth", "train")
    assert (job.spec.entrypoint, job.status.phase, job.team) == ("true", "Pending", "growth")
    shown = job.plain()
    assert (shown.spec, shown.status) == (spec, {"phase": "Pending", "older": 1})
    assert shown.etag == job.etag
