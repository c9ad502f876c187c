"""What a Ray Train run becomes in MLflow: parameters, steps and metrics. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from rayplane.nouns.base import Record

STEP = "step"
"""A reported metric of this name says the report's step itself."""

MAX_VALUE = 6000
"""Characters of a parameter's value that MLflow takes."""

_KEY = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-. /:")


def parameters(train_loop_config: Mapping[str, Any] | None, scaling: Mapping[str, Any]) -> dict[str, str]:
    """The training loop's configuration, flattened with dots, and ``scaling.*``, as MLflow parameters."""
    flat = {**_flatten(train_loop_config or {}), **{f"scaling.{k}": v for k, v in _flatten(scaling).items()}}
    return {key_of(key): _text(value) for key, value in flat.items()}


def metrics(reported: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of one report, flattened with dots; what is no number is left out, and so is ``step``."""
    return {key_of(key): float(value) for key, value in _flatten(reported).items() if key != STEP and _is_number(value)}


def key_of(key: str) -> str:
    """A name that MLflow takes: other characters become underscores."""
    return "".join(c if c in _KEY else "_" for c in key)[:250]


class Steps:
    """Numbers the reports of a training and knows which were logged before.

    A report's step is its own ``step``, else its place in the training. Ray starts the workers anew after a
    failure: training goes on from the last checkpoint, so the place does too, and the steps from there on
    that were logged already come a second time.
    """

    def __init__(self, offset: int = 0, logged: Mapping[str, int] | None = None, checkpoint: int | None = None) -> None:
        """``offset`` is added to every step; ``logged``: metric -> its last logged step; ``checkpoint``: the
        step of the checkpoint that this training resumes from."""
        self._offset = offset
        self._logged = dict(logged or {})
        self._checkpoint = -1 if checkpoint is None else checkpoint - offset
        self._place = self._checkpoint

    def restart(self) -> None:
        """The workers start anew from the last checkpoint."""
        self._place = self._checkpoint

    def take(self, reported: Mapping[str, Any], *, checkpoint: bool) -> tuple[int, dict[str, float]]:
        """The step of the next report, and those of its metrics that were not logged at that step or after
        it."""
        own = reported.get(STEP)
        self._place = int(float(own)) if own is not None and _is_number(own) else self._place + 1
        if checkpoint:
            self._checkpoint = self._place
        step = self._place + self._offset
        fresh = {k: v for k, v in metrics(reported).items() if step > self._logged.get(k, -1)}
        self._logged.update(dict.fromkeys(fresh, step))
        return step, fresh


class Fits(Record):
    """Which trainings (``trainer.fit()``) of a script wrote to its run, so that their steps follow each
    other.

    Kept as a tag of the run. A second attempt of the job runs the same script: its trainings have the places
    of the first's.
    """

    submission: str = ""
    """The attempt that wrote last."""
    current: int = -1
    """The place of its training in the script."""
    offsets: list[int] = Field(default_factory=list)
    """The first step of each."""

    def begin(self, submission: str, logged: Mapping[str, int]) -> Fits:
        """The next training of an attempt (``submission`` is empty where attempts are unknown: each is then
        the first)."""
        place = self.current + 1 if submission and submission == self.submission else 0
        offsets = list(self.offsets)
        if place >= len(offsets):
            offsets.append(max(logged.values(), default=-1) + 1 if place else 0)
        return Fits(submission=submission, current=place, offsets=offsets)

    @property
    def offset(self) -> int:
        """The first step of the current training."""
        return self.offsets[self.current]


def _flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat.update(_flatten(value, f"{name}."))
        else:
            flat[name] = value
    return flat


def _is_number(value: Any) -> bool:
    if isinstance(value, bool | str | bytes) or value is None:
        return isinstance(value, bool)
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _text(value: Any) -> str:
    text = str(value)
    return text if len(text) <= MAX_VALUE else text[: MAX_VALUE - 3] + "..."
