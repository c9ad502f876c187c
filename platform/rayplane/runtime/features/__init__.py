"""The team's Feast project: configure, apply, join, materialize and read it online."""

from __future__ import annotations

from rayplane.runtime import feast_import

feast_import.without_type_checks()  # before the imports below import Feast

from rayplane.runtime.features.lookup import online  # noqa: E402
from rayplane.runtime.features.materialization import latest_event, materialize  # noqa: E402
from rayplane.runtime.features.project import store  # noqa: E402
from rayplane.runtime.features.registration import apply  # noqa: E402
from rayplane.runtime.features.training import training_frame  # noqa: E402

__all__ = ["apply", "latest_event", "materialize", "online", "store", "training_frame"]
