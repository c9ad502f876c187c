"""Hash the rows of the job's sources and report them: ``python -m rayplane.runtime.datasets.observe``."""

from __future__ import annotations

from rayplane.nouns.events import Event
from rayplane.runtime import context, report
from rayplane.runtime.datasets.hash import content_hash
from rayplane.runtime.datasets.sources import open_source


def observe() -> list[Event]:
    """Report ``source.observed`` for each source of the run context; reordered rows have the same hash.

    Raises as ``open_source`` does, and reports nothing about a source that can't be read.
    """
    events = []
    for name, uri in context.current().sources.items():
        table = open_source(uri)
        data = {"name": name, "uri": uri, "content_hash": content_hash(table), "rows": table.num_rows}
        events.append(report.emit("source.observed", data))
    return events


if __name__ == "__main__":
    for event in observe():
        print(
            f"{event.data['name']}: {event.data['rows']} rows, {event.data['content_hash'][:16]} ({event.data['uri']})"
        )
    report.flush()
