"""`rayplane model`: the common verbs."""

from __future__ import annotations

from rayplane.client.cli.noun import group

app = group("models", "Registered models.")
