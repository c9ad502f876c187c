"""The team's Feast project: configured, applied, joined, materialized, read online."""

from __future__ import annotations

from rayplane.runtime.features.lookup import online
from rayplane.runtime.features.materialization import latest_event, materialize
from rayplane.runtime.features.project import store
from rayplane.runtime.features.registration import apply
from rayplane.runtime.features.training import training_frame

__all__ = ["apply", "latest_event", "materialize", "online", "store", "training_frame"]
