"""The rules of pipelines."""

from __future__ import annotations

from collections.abc import Iterator

from rayplane.gateway.store.typed import Pipeline
from rayplane.gateway.usecases import pipeline as pipelines
from rayplane.gateway.usecases.platform import Platform
from rayplane.gateway.usecases.rules.base import Rules
from rayplane.gateway.usecases.rules.draft import Check, Draft


class PipelineRules(Rules):
    """A pipeline refers only to known parameters and packages, and sets only variables that a job may have."""

    def before(self, draft: Draft) -> Iterator[Check]:
        yield from super().before(draft)
        yield Check("content", lambda: pipelines.check(draft.team, draft.spec, draft.platform))

    def check_deletion(self, obj: Pipeline, platform: Platform) -> None:
        pipelines.check_deletion(obj, platform)
