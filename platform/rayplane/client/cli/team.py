"""`rayplane team`: the common verbs."""

from __future__ import annotations

from rayplane.client.cli.noun import group

app = group("teams", "Who owns and pays.")
