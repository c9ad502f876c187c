"""`rayplane quickstart`: run the flights example from raw data to predictions, and print a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rayplane.client.cli.output import Format, Output, client, note, print_json, print_table, say

if TYPE_CHECKING:
    from rayplane.client.quickstart import Report


def quickstart(
    days: Annotated[
        int | None,
        typer.Option(
            min=1, max=31, help="Use only this many days from the start of January.", show_default="the whole year"
        ),
    ] = None,
    folder: Annotated[Path, typer.Option(help="The folder with jobs/flights.yaml.")] = Path(),
    documents: Annotated[
        Path | None,
        typer.Option(
            help="Other documents for the same team, for example on another backend.", show_default="jobs/flights.yaml"
        ),
    ] = None,
    output: Output = None,
) -> None:
    """Go from raw data to a served model: ingest, prepare, features, train, evaluate, register, deploy, predict."""
    from rayplane.client import quickstart as job
    from rayplane.client.cli.pipeline import progress

    with client() as api:
        report = job.run(api, folder, days=days, documents=documents, say=note, watching=progress)
    if output is Format.JSON:
        print_json(report.model_dump(mode="json"))
    else:
        _print(report)


def _print(report: Report) -> None:
    rows, model = report.rows, report.model
    prometheus = report.prometheus
    targets = f"{prometheus.up} of {prometheus.total} targets up" if prometheus else "not installed"
    print_table(
        ["WHAT", "FIGURE"],
        [
            ["flights", f"{rows.ingested} ingested = {rows.prepared} prepared + {rows.quarantined} quarantined"],
            ["training rows", str(report.training_rows)],
            ["feature views", ", ".join(report.feature_views)],
            ["MLflow run", report.run_id],
            ["AUC", f"{report.auc:.4f} (baseline {report.baseline_auc:.4f})"],
            ["model", f"{model.name} version {model.version} @{model.alias}"],
            ["service", report.service_url],
            ["Prometheus", targets],
        ],
    )
    say("")
    print_table(["FLIGHT", "ANSWER"], [[_flight(p.request), str(p.answer)] for p in report.predictions])
    say("")
    print_table(
        ["STAGE", "SECONDS", ""],
        [[s.name, f"{s.seconds:.1f}", "cached" if s.cached else ""] for s in report.stages],
    )
    note(f"done in {report.seconds:.0f} s")


def _flight(request: dict[str, object]) -> str:
    return f"{request.get('carrier')} {request.get('origin')}-{request.get('dest')} {request.get('scheduled_at')}"
