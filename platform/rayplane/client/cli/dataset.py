"""`rayplane dataset`: the common verbs and a dataset's versions."""

from __future__ import annotations

from rayplane.client.cli.noun import NameArgument, group
from rayplane.client.cli.output import Format, Output, TeamOption, client, print_json, print_table, team_of
from rayplane.nouns import DATASET

app = group(DATASET)


@app.command()
def versions(name: NameArgument, team: TeamOption = None, output: Output = None) -> None:
    """List a dataset's versions, newest first."""
    with client() as api:
        listed = api.datasets.versions(team_of(api, team), name)
    if output is Format.JSON:
        print_json([version.model_dump(mode="json") for version in listed])
        return
    rows = [
        [
            v.version,
            str(v.rows),
            str(v.bytes),
            str(len(v.columns)),
            v.job or "-",
            v.created_at.isoformat(timespec="seconds"),
        ]
        for v in listed
    ]
    print_table(["VERSION", "ROWS", "BYTES", "COLUMNS", "JOB", "CREATED"], rows)
