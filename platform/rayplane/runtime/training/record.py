"""Translate a Ray Train run into MLflow's parameters, steps and metrics. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from rayplane.nouns.base import Record

STEP = "step"
"""Metric by which a report states its own step."""

MAX_VALUE = 6000
"""Characters that MLflow accepts as a parameter's value."""

_KEY = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-. /:")


def parameters(train_loop_config: Mapping[str, Any] | None, scaling: Mapping[str, Any]) -> dict[str, str]:
    """The training loop's configuration, flattened with dots, and ``scaling.*``, as MLflow parameters."""
    flat = {**_flatten(train_loop_config or {}), **{f"scaling.{k}": v for k, v in _flatten(scaling).items()}}
    return {key_of(key): _text(value) for key, value in flat.items()}


def metrics(reported: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of one report, flattened with dots; other values and ``step`` are left out."""
    return {key_of(key): float(value) for key, value in _flatten(reported).items() if key != STEP and _is_number(value)}


def key_of(key: str) -> str:
    """A name that MLflow accepts: other characters become underscores, and it is cut at 250 characters."""
    return "".join(c if c in _KEY else "_" for c in key)[:250]


class Steps:
    """Number the reports of a training, and tell which metrics were logged before.

    A report's step is its own ``step``, else its index in the training. After a failure Ray restarts the workers, and
    training continues from the last checkpoint. So does the index, and steps after the checkpoint that were logged
    already are reported a second time.
    """

    def __init__(self, offset: int = 0, logged: Mapping[str, int] | None = None, checkpoint: int | None = None) -> None:
        """Begin to number reports.

        ``offset`` is added to every step; ``logged``: metric -> its last logged step; ``checkpoint``: the step of the
        checkpoint that this training resumes from.
        """
        self._offset = offset
        self._logged = dict(logged or {})
        self._checkpoint = -1 if checkpoint is None else checkpoint - offset
        self._index = self._checkpoint

    def restart(self) -> None:
        """Continue from the last checkpoint, as the restarted workers do."""
        self._index = self._checkpoint

    def take(self, reported: Mapping[str, Any], *, checkpoint: bool) -> tuple[int, dict[str, float]]:
        """Number the next report; returns its step, and those of its metrics not logged at that step or a later one."""
        own = reported.get(STEP)
        self._index = int(float(own)) if own is not None and _is_number(own) else self._index + 1
        if checkpoint:
            self._checkpoint = self._index
        step = self._index + self._offset
        fresh = {k: v for k, v in metrics(reported).items() if step > self._logged.get(k, -1)}
        self._logged.update(dict.fromkeys(fresh, step))
        return step, fresh


class Fits(Record):
    """The trainings (``trainer.fit()``) of a script that log to one run, and the first step of each.

    Stored as a tag of the run. With it, the steps of a later training follow those of the earlier one. A second attempt
    of the job runs the same script: its trainings have the same indices as those of the first attempt.
    """

    submission: str = ""
    """Ray's submission id of the attempt that wrote last."""
    current: int = -1
    """Index, in the script, of that attempt's current training."""
    offsets: list[int] = Field(default_factory=list)
    """First step of each training."""

    def begin(self, submission: str, logged: Mapping[str, int]) -> Fits:
        """Return the record as the next training of an attempt begins; ``logged``: metric -> its last logged step.

        With an empty ``submission`` attempts are unknown: each training counts as the first.
        """
        index = self.current + 1 if submission and submission == self.submission else 0
        offsets = list(self.offsets)
        if index >= len(offsets):
            offsets.append(max(logged.values(), default=-1) + 1 if index else 0)
        return Fits(submission=submission, current=index, offsets=offsets)

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
