"""Objects: put, get, list, status and deletion, on SQLite and Postgres."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.errors import Conflict, InvalidInput, NotFound, PreconditionFailed
from rayplane.gateway.store import Store
from rayplane.gateway.store.typed import AnyObject
from rayplane.nouns.base import Status


def put(store: Store, name: str = "dev", spec: dict[str, Any] | None = None, **more: Any) -> AnyObject:
    return store.put("Cluster", more.pop("team", "growth"), name, spec or {"size": "small"}, owner="ada", **more)[0]


def test_a_new_object_has_a_uid_a_generation_an_owner_and_its_times(store: Store, clock: Any) -> None:
    made, change = store.put(
        "Cluster", "growth", "dev", {"size": "small"}, owner="ada", labels={"cost-center": "7"}, status=Status()
    )
    assert change == "created"
    assert made == store.get("Cluster", "growth", "dev")
    meta = made.metadata
    assert (meta.name, meta.team, meta.owner, meta.generation) == ("dev", "growth", "ada", 1)
    assert (meta.created_at, meta.updated_at, meta.deleted_at) == (clock.now, clock.now, None)
    assert meta.created_at is not None
    assert meta.created_at.tzinfo is not None
    assert len(meta.uid) == 32
    assert meta.labels == {"cost-center": "7"}
    assert made.status_data["phase"] == "Pending"


def test_an_equal_spec_changes_nothing(store: Store, clock: Any) -> None:
    before = put(store, labels={"a": "b"})
    clock.forward(hours=1)
    after, change = store.put("Cluster", "growth", "dev", {"size": "small"}, owner="bob")
    assert change == "unchanged"
    assert after == before


def test_a_changed_spec_raises_generation_and_version_but_keeps_status_owner_and_labels(
    store: Store, clock: Any
) -> None:
    before = put(store, labels={"a": "b"}, status={"phase": "Ready"})
    clock.forward(hours=1)
    after, change = store.put("Cluster", "growth", "dev", {"size": "large"}, owner="bob", status={"phase": "Pending"})
    assert change == "changed"
    assert after.metadata.generation == 2
    assert after.metadata.resource_version > before.metadata.resource_version
    assert (after.metadata.uid, after.metadata.owner, after.metadata.labels) == (before.metadata.uid, "ada", {"a": "b"})
    assert after.metadata.updated_at == clock.now
    assert after.status_data == {"phase": "Ready"}


def test_changed_labels_alone_keep_the_generation(store: Store) -> None:
    put(store, labels={"a": "b"})
    after, change = store.put("Cluster", "growth", "dev", {"size": "small"}, owner="ada", labels={"a": "c"})
    assert (change, after.metadata.generation, after.metadata.labels) == ("changed", 1, {"a": "c"})


def test_the_order_of_a_specs_keys_is_kept(store: Store) -> None:
    steps: dict[str, Any] = {"steps": {name: {} for name in ("zeta", "alpha", "mid", "b", "a")}}
    put(store, spec=steps)
    assert list(store.get("Cluster", "growth", "dev").spec_data["steps"]) == ["zeta", "alpha", "mid", "b", "a"]


def test_numbers_that_json_lacks_become_null(store: Store) -> None:
    obj = store.set_status(put(store).metadata.uid, {"auc": float("nan"), "loss": [float("inf"), 0.5]})
    assert obj.status_data == {"auc": None, "loss": [None, 0.5]}


def test_if_match_allows_changes_only_of_the_given_version(store: Store) -> None:
    before = put(store)
    version = before.metadata.resource_version
    store.put("Cluster", "growth", "dev", {"size": "large"}, owner="ada", if_match=version)
    with pytest.raises(PreconditionFailed, match=f"not {version}"):
        store.put("Cluster", "growth", "dev", {"size": "huge"}, owner="ada", if_match=version)
    assert store.get("Cluster", "growth", "dev").spec_data == {"size": "large"}


def test_if_match_never_creates_an_object(store: Store) -> None:
    with pytest.raises(PreconditionFailed):
        put(store, if_match=1)
    with pytest.raises(NotFound):
        store.get("Cluster", "growth", "dev")


def test_whether_an_object_exists_is_answered_without_a_search_for_the_nearest_name(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = put(store)
    store.mark_deleted(made.metadata.uid)

    def search(*_: Any) -> Any:
        raise AssertionError("the names were searched")

    monkeypatch.setattr("rayplane.gateway.store.objects.not_found", search)
    assert store.get_or_none("Cluster", "growth", "dve") is None
    assert store.get_or_none("Cluster", "growth", "dev") == store.get("Cluster", "growth", "dev")
    store.remove(made.metadata.uid)
    assert store.get_or_none("Cluster", "growth", "dev") is None


def test_a_missing_object_is_answered_with_the_nearest_name(store: Store) -> None:
    put(store, "train")
    put(store, "notebooks")
    with pytest.raises(NotFound, match=r"Cluster 'growth/trian' is not there. Did you mean 'train'?"):
        store.get("Cluster", "growth", "trian")
    with pytest.raises(NotFound, match="There is no Cluster in team 'other' yet"):
        store.get("Cluster", "other", "train")


def test_the_same_name_in_another_team_or_kind_is_another_object(store: Store) -> None:
    uids = {
        store.put(kind, team, "dev", {}, owner="ada")[0].metadata.uid
        for kind in ("Cluster", "Service")
        for team in ("growth", "ads")
    }
    assert len(uids) == 4


def test_status_is_replaced_and_an_equal_one_changes_nothing(store: Store) -> None:
    made = put(store, status=Status())
    ready = store.set_status(made.metadata.uid, Status(phase="Ready", observed_generation=1))
    assert ready.status_data["phase"] == "Ready"
    assert ready.metadata.generation == 1
    assert ready.metadata.resource_version > made.metadata.resource_version
    assert store.set_status(made.metadata.uid, Status(phase="Ready", observed_generation=1)) == ready


def test_a_status_written_on_an_older_version_is_a_conflict(store: Store) -> None:
    made = put(store)
    store.set_status(made.metadata.uid, {"phase": "Ready"}, expect=made.metadata.resource_version)
    with pytest.raises(Conflict, match="Read it again"):
        store.set_status(made.metadata.uid, {"phase": "Failed"}, expect=made.metadata.resource_version)
    assert store.get("Cluster", "growth", "dev").status_data == {"phase": "Ready"}


def test_update_spec_raises_the_generation_only_for_a_change(store: Store) -> None:
    made = put(store, spec={"stop_requested": False})
    assert store.update_spec(made.metadata.uid, {"stop_requested": False}).metadata.generation == 1
    assert store.update_spec(made.metadata.uid, {"stop_requested": True}).metadata.generation == 2


def test_an_object_being_deleted_is_readable_but_can_not_be_changed(store: Store, clock: Any) -> None:
    made = put(store)
    marked = store.mark_deleted(made.metadata.uid)
    assert marked.metadata.deleted_at == clock.now
    clock.forward(minutes=1)
    assert store.mark_deleted(made.metadata.uid) == marked
    assert store.get("Cluster", "growth", "dev") == marked
    with pytest.raises(Conflict, match="being deleted"):
        put(store)


def test_a_removed_object_frees_its_name_and_stays_as_history(store: Store) -> None:
    made = put(store, external_id="x")
    store.remove(made.metadata.uid)
    store.remove(made.metadata.uid)
    with pytest.raises(NotFound):
        store.get("Cluster", "growth", "dev")
    with pytest.raises(NotFound):
        store.get_by_uid(made.metadata.uid)
    with pytest.raises(NotFound):
        store.set_status(made.metadata.uid, {"phase": "Ready"})
    assert store.get_by_uid(made.metadata.uid, removed=True).metadata.deleted_at is not None
    again = put(store, external_id="x")
    assert again.metadata.uid != made.metadata.uid
    assert store.list("Cluster").items == [again]
    assert (store.count("Cluster"), store.count("Cluster", removed=True)) == (1, 2)


def test_removing_an_unknown_uid_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound):
        store.remove("0" * 32)


def test_an_external_id_is_unique_and_finds_its_object(store: Store) -> None:
    made = put(store, "one", external_id="dev/raysubmit_1")
    assert store.find("Cluster", "growth", "dev/raysubmit_1") == made
    assert store.find("Cluster", "ads", "dev/raysubmit_1") is None
    with pytest.raises(Conflict, match="'growth/one' is known as 'dev/raysubmit_1'"):
        put(store, "two", external_id="dev/raysubmit_1")
    with pytest.raises(NotFound):
        store.get("Cluster", "growth", "two")


def test_pages_have_every_object_once_in_order_of_creation(store: Store, clock: Any) -> None:
    names = []
    for number in range(25):
        names.append(put(store, f"c{number:02}").metadata.name)
        if number % 4 == 0:  # several objects of one instant
            clock.forward(seconds=1)
    listed: list[AnyObject] = []
    cursor = None
    for _ in range(9):
        page = store.list("Cluster", "growth", limit=3, cursor=cursor)
        listed += page.items
        cursor = page.next_cursor
    assert cursor is None
    assert sorted(obj.metadata.name for obj in listed) == names
    assert [o.metadata.created_at for o in listed] == sorted(o.metadata.created_at for o in listed)  # type: ignore[type-var]
    assert [o.metadata.uid for o in store.each("Cluster")] == [o.metadata.uid for o in listed]


def test_an_object_created_or_removed_between_two_pages_neither_hides_nor_repeats_another(
    store: Store, clock: Any
) -> None:
    made = []
    for number in range(6):
        made.append(put(store, f"c{number}"))
        clock.forward(seconds=1)
    first = store.list("Cluster", limit=3)
    store.remove(first.items[2].metadata.uid)
    put(store, "late")
    second = store.list("Cluster", limit=10, cursor=first.next_cursor)
    assert [o.metadata.name for o in second.items] == ["c3", "c4", "c5", "late"]


def test_a_full_last_page_says_that_it_is_the_last(store: Store) -> None:
    put(store, "a")
    put(store, "b")
    assert store.list("Cluster", limit=2).next_cursor is None


def test_lists_are_filtered_by_team_label_and_phase(store: Store) -> None:
    put(store, "a", labels={"tier": "x", "odd/key": 'q"uote'}, status={"phase": "Ready"})
    put(store, "b", labels={"tier": "y"}, status={"phase": "Pending"})
    put(store, "c", team="ads", labels={"tier": "x"}, status={"phase": "Ready"})

    def names(team: str | None = None, **filters: Any) -> list[str]:
        return sorted(o.metadata.name for o in store.list("Cluster", team, **filters).items)

    assert names() == ["a", "b", "c"]
    assert names("growth") == ["a", "b"]
    assert names(labels={"tier": "x"}) == ["a", "c"]
    assert names(labels={"odd/key": 'q"uote', "tier": "x"}) == ["a"]
    assert names(labels={"absent": "x"}) == []
    assert names(phases={"Ready", "Failed"}) == ["a", "c"]
    assert names(phases=set()) == []
    assert store.count_by_phase() == {("Cluster", "Ready"): 2, ("Cluster", "Pending"): 1}


@pytest.mark.parametrize("cursor", ["", "x", "!!!", "eyJhIjoxfQ", "WzEsMl0", "WyJhIiwiYiJd", "Zm9v", "\N{SNOWMAN}"])
def test_an_invalid_cursor_is_refused(store: Store, cursor: str) -> None:
    with pytest.raises(InvalidInput, match="next_cursor"):
        store.list("Cluster", cursor=cursor)


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_a_limit_out_of_range_is_refused(store: Store, limit: int) -> None:
    with pytest.raises(InvalidInput, match="1 to 1000"):
        store.list("Cluster", limit=limit)


def test_objects_written_since_a_version_are_returned_once_in_order(store: Store) -> None:
    first, second = put(store), put(store, "other")
    written, newest = store.written(None)
    assert [(w.uid, w.kind, w.wanted, w.gone) for w in written] == [
        (o.metadata.uid, "Cluster", (1, None), False) for o in (first, second)
    ]
    assert newest == second.metadata.resource_version
    assert store.written(newest) == ([], newest)
    store.set_status(second.metadata.uid, Status(phase="Ready"))
    store.update_spec(first.metadata.uid, {"size": "big"})
    written, newest = store.written(newest)
    assert [(w.uid, w.phase, w.wanted[0]) for w in written] == [
        (second.metadata.uid, "Ready", 1),
        (first.metadata.uid, "", 2),
    ]
    store.remove(first.metadata.uid)
    ((gone,), newest) = store.written(newest)
    assert (gone.uid, gone.gone) == (first.metadata.uid, True)
    assert [w.uid for w in store.written(None)[0]] == [second.metadata.uid]
    assert store.written(None)[1] == newest, "what was removed counts as written"


def test_a_status_that_states_a_users_wish_raises_the_generation(store: Store) -> None:
    made = put(store)
    reported = store.set_status(made.metadata.uid, Status(phase="Ready"))
    assert reported.metadata.generation == 1
    asked = store.set_status(made.metadata.uid, Status(phase="Suspended"), wanted=True)
    assert asked.metadata.generation == 2


def test_a_label_whose_key_is_not_ascii_is_found(store: Store) -> None:
    put(store, labels={"équipe": "x"})
    assert [obj.metadata.name for obj in store.list("Cluster", labels={"équipe": "x"}).items] == ["dev"]
    assert store.list("Cluster", labels={"équipe": "y"}).items == []
