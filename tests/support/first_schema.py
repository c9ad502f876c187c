"""A database of the first version of rayplane: schema 0001, with rows in every table."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine import make_url

from rayplane.gateway.store import Store
from rayplane.gateway.store.database import prepare_file
from rayplane.gateway.store.migrate import upgrade_within

FIRST = "0001"
TEAM = "growth"
AT = datetime(2026, 11, 23, 9, 30, 0, 250_000, tzinfo=UTC)
VERSION = "0123456789abcdef"
KINDS = ("Team", "Cluster", "Dataset", "Feature", "Model", "Pipeline", "Job", "PipelineRun")
PHASES = {"Cluster": "Suspended", "Job": "Succeeded", "PipelineRun": "Succeeded"}
"""Phases of the objects; those of other kinds are Ready."""
SPECS: dict[str, dict[str, Any]] = {
    "Team": {"backend": "local", "quota": {"cpu": 8}},
    "Cluster": {"size": "small", "suspended": True},
    "Dataset": {"description": "Departures"},
    "Feature": {},
    "Model": {},
    "Pipeline": {"cluster": "dev", "steps": {"second": {"entrypoint": "b"}, "first": {"entrypoint": "a"}}},
    "Job": {"entrypoint": "python -m jobs.train \u2603", "cluster": "dev", "retries": 2},
    "PipelineRun": {"pipeline": "main", "snapshot": {}},
}


def make(url: str) -> None:
    """Create the database; there must be none at ``url``."""
    prepare_file(make_url(url))
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    with engine.begin() as connection:
        upgrade_within(connection, FIRST)
        _rows(connection)
    engine.dispose()


def check(store: Store) -> None:
    """Assert that the store reads every row as it was written, and continues numbering after the last."""
    check_asked(store)
    for number, kind in enumerate(KINDS, start=1):
        [obj] = store.list(kind, _team(kind)).items
        assert obj.metadata.resource_version == number
        assert obj.status_data == {"phase": PHASES.get(kind, "Ready")}
    [entry] = store.audit_log(TEAM).items
    assert entry["id"] == 7
    opened, closed = sorted(store.leases(TEAM), key=lambda lease: lease.ended_at is not None)
    assert (opened.cpu, opened.started_at, closed.ended_at) == (0.5, AT, AT + timedelta(hours=1))
    store.audit("ada", "put", kind="Job", team=TEAM, name="job")
    assert store.audit_log(TEAM).items[0]["id"] == 8
    obj, _ = store.put("Job", TEAM, "another", {"entrypoint": "true", "cluster": "dev"}, owner="ada")
    assert obj.metadata.resource_version == len(KINDS) + 1


def check_asked(store: Store) -> None:
    """Assert the same for rows that no reconciler changes: specs and records."""
    for number, kind in enumerate(KINDS, start=1):
        [obj] = store.list(kind, _team(kind)).items
        assert (obj.metadata.name, obj.metadata.uid) == (_name(kind), f"uid-{number}")
        assert (obj.metadata.labels, obj.metadata.owner) == ({"stage": "dev"}, "ada")
        assert obj.metadata.created_at == AT + timedelta(seconds=number)
        assert obj.spec_data == SPECS[kind]
        assert list(obj.spec_data) == list(SPECS[kind]), "keys stay in their order"
        assert store.get(kind, _team(kind), _name(kind)) == obj
    assert [job.metadata.name for job in store.each("Job", TEAM, cluster="dev")] == ["job"]
    entry = store.audit_log(TEAM).items[-1]
    assert (entry["principal"], entry["detail"], entry["time"]) == ("ada", {"dry_run": False}, AT)
    assert {lease.id for lease in store.leases(TEAM)} == {"l1", "l2"}
    assert [(e.source, e.target) for e in store.edges(TEAM, f"dataset:flights@{VERSION}", "up")] == [
        ("source:file:///data#1", f"dataset:flights@{VERSION}")
    ]
    [event] = store.events(TEAM, ["uid-7"])
    assert (event.id, event.type, event.time, event.data) == ("e1", "run.started", AT, {"run_id": "r1", "attempt": 1})
    version = store.get_dataset_version(TEAM, "flights")
    assert (version.version, version.rows, version.bytes) == (VERSION, 336_776, 2**33 + 1)
    result = store.get_step_result(TEAM, "key")
    assert result is not None
    assert result.outputs[0].value == VERSION
    assert store.get_operation("op").uid == "uid-2"


def check_remembered(store: Store) -> None:
    """Assert that an idempotency key's stored answer is found; the store's clock must be within a day of the rows."""
    assert store.recall("ada", "k", "print") == {"status": 201}


def _team(kind: str) -> str:
    return "" if kind == "Team" else TEAM


def _name(kind: str) -> str:
    return TEAM if kind == "Team" else {"Dataset": "flights", "Cluster": "dev"}.get(kind, kind.lower())


def _rows(connection: Connection) -> None:
    def add(table: str, **values: Any) -> None:
        documents = {"labels", "spec", "status", "detail", "body", "answer"}
        shown = {k: json.dumps(v) if k in documents else _instant(connection, v) for k, v in values.items()}
        names, places = ", ".join(shown), ", ".join(f":{name}" for name in shown)
        connection.execute(text(f"INSERT INTO {table} ({names}) VALUES ({places})"), shown)

    for number, kind in enumerate(KINDS, start=1):
        at = AT + timedelta(seconds=number)
        add(
            "objects", uid=f"uid-{number}", kind=kind, team=_team(kind), name=_name(kind),
            generation=1, resource_version=number, labels={"stage": "dev"}, owner="ada", created_at=at, updated_at=at,
            spec=SPECS[kind], status={"phase": PHASES.get(kind, "Ready")}, phase=PHASES.get(kind, "Ready"),
        )  # fmt: skip
    connection.execute(text("UPDATE revision SET value = :value"), {"value": len(KINDS)})
    audit = {"principal": "ada", "action": "put", "kind": "Job", "team": TEAM, "name": "job"}
    add("audit", id=7, time=AT, detail={"dry_run": False}, **audit)
    lease = {"team": TEAM, "cluster_uid": "uid-2", "cluster": "dev", "cpu": 0.5, "memory": 2.0**33, "gpu": 0.0}
    add("leases", seq=1, id="l1", started_at=AT, ended_at=AT + timedelta(hours=1), **lease)
    add("leases", seq=2, id="l2", started_at=AT, **lease)
    edge = {"source": "source:file:///data#1", "target": f"dataset:flights@{VERSION}"}
    add("lineage", id=1, team=TEAM, time=AT, **edge)
    event = {"id": "e1", "type": "run.started", "time": AT.isoformat(), "data": {"run_id": "r1", "attempt": 1}}
    event_columns = {"id": "e1", "type": "run.started", "job_uid": "uid-7"}
    add("events", seq=1, team=TEAM, time=AT, recorded_at=AT, body=event, **event_columns)
    version = {"team": TEAM, "name": "flights", "version": VERSION}
    size = {"content_hash": VERSION * 4, "uri": "file:///root/x", "rows": 336_776, "bytes": 2**33 + 1, "columns": []}
    add("dataset_versions", published_at=AT, body={**version, **size, "created_at": AT.isoformat()}, **version)
    output = {"kind": "dataset", "name": "flights", "value": VERSION}
    add(
        "step_results", team=TEAM, key="key", updated_at=AT,
        body={"key": "key", "run": "main-1", "job": "job", "outputs": [output]},
    )  # fmt: skip
    operation = {"id": "op", "team": TEAM, "kind": "Cluster", "name": "dev", "uid": "uid-2", "generation": 1}
    add("operations", id="op", team=TEAM, created_at=AT, body={**operation, "action": "apply", "state": "succeeded"})
    add("idempotency", principal="ada", key="k", fingerprint="print", answer={"status": 201}, created_at=AT)
    add("leader", id=1, holder="host:1", expires_at=AT)
    if connection.dialect.name == "postgresql":  # an explicit number does not advance PostgreSQL's sequence
        for table, key in (("audit", "id"), ("leases", "seq"), ("lineage", "id"), ("events", "seq")):
            last = f"(SELECT max({key}) FROM {table})"
            connection.execute(text(f"SELECT setval(pg_get_serial_sequence('{table}', '{key}'), {last})"))


def _instant(connection: Connection, value: Any) -> Any:
    if not isinstance(value, datetime) or connection.dialect.name != "sqlite":
        return value
    return value.strftime("%Y-%m-%d %H:%M:%S.%f")
