"""Track stock Ray Train (v2) in the MLflow run that the platform allocated. Injected by RAY_TRAIN_CALLBACKS.

Runs in Ray Train's controller. The hooks only queue their arguments; a thread writes to MLflow, so an MLflow that is
down neither stops nor slows training. The thread retries failed writes. For what is still unwritten when training ends,
it logs a warning, records the job's value ``tracking``, and tags the run if MLflow accepts the tag.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ray.train.v2._internal.execution.callback import ControllerCallback, ReportCallback, WorkerGroupCallback

from rayplane.runtime import context, report
from rayplane.runtime.training.record import Fits, Steps, parameters
from rayplane.runtime.training.tracking import RUN_ID, run_id

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from ray.train.v2._internal.execution.context import TrainRunContext
    from ray.train.v2._internal.execution.training_report import _TrainingReport
    from ray.train.v2._internal.execution.worker_group import WorkerGroup

FINISH_PATIENCE = 60.0
"""Seconds that the end of training waits for unwritten metrics."""
ABORT_PATIENCE = 5.0
"""Seconds that an aborted training waits for them."""

CHECKPOINT_TAG = "rayplane.checkpoint"
CHECKPOINT_STEP_TAG = "rayplane.checkpoint.step"
LOST_TAG = "rayplane.tracking.lost"
FITS_TAG = "rayplane.train.fits"

_BATCH = 1000
"""Metrics that MLflow accepts in one call."""
_PARAMS = 100
"""Parameters that MLflow accepts in one call."""

_log = logging.getLogger(__name__)


class MlflowTrainCallback(ControllerCallback, ReportCallback, WorkerGroupCallback):
    """Log parameters, metrics by step and tags of one ``trainer.fit()``; do nothing in a job without a run."""

    def __init__(self) -> None:
        # Ray makes this object in the driver and pickles it to the controller, so it has no thread until that starts.
        self._writer: _Writer | None = None

    def after_controller_start(self, train_run_context: TrainRunContext) -> None:
        """Start to write, if this job has a run."""
        if not os.environ.get(RUN_ID) and not os.environ.get("RAYPLANE_SUBMISSION_ID"):
            return
        self._writer = _Writer(_described(train_run_context))
        self._writer.start()

    def after_worker_group_start(self, worker_group: WorkerGroup) -> None:
        """Record that the workers start, for the first time or after a failure or a resize."""
        if self._writer is not None:
            self._writer.put(_Workers(count=len(worker_group)))

    def after_report(self, training_report: _TrainingReport, metrics: list[dict[str, Any]]) -> None:
        """Record a report of all workers: rank 0's metrics count."""
        if self._writer is not None and metrics:
            checkpoint = training_report.checkpoint
            self._writer.put(
                _Report(
                    metrics=dict(metrics[0]),
                    checkpoint=None if checkpoint is None else _uri(checkpoint),
                    milliseconds=int(time.time() * 1000),
                )
            )

    async def before_controller_shutdown(self) -> None:
        """Finish writing after training ended, well or badly; the platform sets the run's status."""
        if self._writer is not None:
            await asyncio.to_thread(self._writer.finish, FINISH_PATIENCE)

    def before_controller_abort(self) -> None:
        """Finish writing after the user interrupted training."""
        if self._writer is not None:
            self._writer.finish(ABORT_PATIENCE)


@dataclass(frozen=True)
class _Description:
    """Facts about a training run that are known before it starts."""

    params: dict[str, str]
    storage: str
    """Folder of this training's checkpoints: another attempt with the same folder resumes from them."""
    tags: dict[str, str]


@dataclass(frozen=True)
class _Workers:
    count: int


@dataclass(frozen=True)
class _Report:
    metrics: dict[str, Any]
    checkpoint: str | None
    milliseconds: int
    """Time of the report, the same at every retry, so that MLflow stores a metric once even if it receives it twice."""


@dataclass
class _Pending:
    """Metrics, tags and parameters to be written next."""

    metrics: list[tuple[str, float, int, int]] = field(default_factory=list)
    """(name, value, milliseconds since 1970, step)"""
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.metrics or self.tags or self.params)


class _Writer:
    """A thread that writes to MLflow in order, with retries and back-off while MLflow is down."""

    def __init__(self, description: _Description) -> None:
        self._description = description
        self._queue: queue.SimpleQueue[_Workers | _Report | None] = queue.SimpleQueue()
        self._steps = Steps()
        self._submission = os.environ.get("RAYPLANE_SUBMISSION_ID", "")
        self._pending = _Pending()
        self._reason = ""
        self._run: str | None = None
        self._client: MlflowClient | None = None
        self._deadline: float | None = None
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._work, name="rayplane-train-tracking", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, item: _Workers | _Report) -> None:
        self._queue.put(item)

    def finish(self, patience: float) -> None:
        """Write what is left, for at most ``patience`` seconds, and report what could not be written."""
        if self._deadline is not None:
            return
        self._deadline = time.monotonic() + patience
        self._queue.put(None)
        self._hurry.set()
        self._thread.join(patience + 5)
        if self._thread.is_alive():
            self._reason = self._reason or "MLflow does not answer"
        if self._pending or self._thread.is_alive():
            self._report_loss()

    def _work(self) -> None:
        if not self._until_done("find its run", self._find_run) or self._run is None:
            return
        if not self._until_done("read its run", self._attach):
            return
        more = True
        while more:
            more = self._take()
            if self._pending and not self._until_done("write to its run", self._write):
                return

    def _take(self) -> bool:
        """Wait for an item, then move all queued ones to the pending ones; False once training has ended."""
        item = self._queue.get()
        while True:
            if item is None:
                return False
            self._absorb(item)
            if len(self._pending.metrics) >= _BATCH:
                return True
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return True

    def _absorb(self, item: _Workers | _Report) -> None:
        if isinstance(item, _Workers):
            self._steps.restart()
            self._pending.tags["ray.train.world_size"] = str(item.count)
            return
        step, fresh = self._steps.take(item.metrics, checkpoint=item.checkpoint is not None)
        self._pending.metrics += [(name, value, item.milliseconds, step) for name, value in fresh.items()]
        if item.checkpoint is not None:
            self._pending.tags |= {CHECKPOINT_TAG: item.checkpoint, CHECKPOINT_STEP_TAG: str(step)}

    def _find_run(self) -> None:
        self._run = run_id()

    def _attach(self) -> None:
        """Read what earlier attempts logged to the run, and continue after it."""
        from mlflow import MlflowClient

        assert self._run is not None
        self._client = MlflowClient()
        data = self._client.get_run(self._run).data
        logged = {metric.key: int(metric.step) for metric in data.to_proto().metrics}
        fits = Fits.model_validate_json(data.tags.get(FITS_TAG, "{}")).begin(self._submission, logged)
        checkpoint, step = data.tags.get(CHECKPOINT_TAG, ""), data.tags.get(CHECKPOINT_STEP_TAG, "")
        resumed = checkpoint.startswith(self._description.storage.rstrip("/") + "/") and step.isdecimal()
        self._steps = Steps(fits.offset, logged, int(step) if resumed else None)
        self._pending.params = {k: v for k, v in self._description.params.items() if k not in data.params}
        changed = [k for k, v in self._description.params.items() if data.params.get(k, v) != v]
        if changed:
            _log.warning("parameters of run %s stay as they were first logged: %s", self._run, ", ".join(changed))
        self._pending.tags = {**self._description.tags, FITS_TAG: fits.model_dump_json()}
        if self._submission:
            _in_background(lambda: _report_start(self._run))

    def _write(self) -> None:
        from mlflow.entities import Metric, Param, RunTag

        assert self._client is not None
        assert self._run is not None
        for part in _chunks(list(self._pending.params.items()), _PARAMS):
            self._client.log_batch(self._run, params=[Param(k, v) for k, v in part])
        self._pending.params = {}
        if self._pending.tags:
            self._client.log_batch(self._run, tags=[RunTag(k, v) for k, v in self._pending.tags.items()])
            self._pending.tags = {}
        while self._pending.metrics:
            batch = self._pending.metrics[:_BATCH]
            self._client.log_batch(self._run, metrics=[Metric(*values) for values in batch])
            del self._pending.metrics[: len(batch)]

    def _until_done(self, aim: str, act: Callable[[], None]) -> bool:
        """Repeat ``act`` with back-off until it succeeds; False if the deadline after training's end is over before."""
        pause = 0.5
        while True:
            try:
                act()
                return True
            # No error of tracking may fail the training.
            except Exception as exc:  # noqa: BLE001
                self._reason = f"{type(exc).__name__}: {exc}"
                _log.warning("training could not %s in MLflow, tried again: %s", aim, self._reason)
            if self._deadline is not None and time.monotonic() + pause > self._deadline:
                return False
            if self._hurry.wait(pause):
                time.sleep(min(pause, 1.0))
            pause = min(pause * 2, 15.0)

    def _report_loss(self) -> None:
        left = len(self._pending.metrics) + self._queue.qsize()
        _log.warning("%d metrics or reports of training are not in MLflow: %s", left, self._reason)
        # The gateway and MLflow may both be down: the end of training waits for neither for long.
        _in_background(lambda: self._record_loss(left)).join(ABORT_PATIENCE)

    def _record_loss(self, left: int) -> None:
        if self._submission:
            report.output("tracking", {"lost": left, "reason": self._reason})
        if self._client is not None and self._run is not None:
            self._client.set_tag(self._run, LOST_TAG, f"{left}: {self._reason}"[:5000])


def _report_start(run: str | None) -> None:
    report.emit("run.started", {"run_id": run, "attempt": context.current().attempt})


def _in_background(act: Callable[[], object]) -> threading.Thread:
    """Call ``act`` in a daemon thread; a failure is a warning."""

    def guarded() -> None:
        try:
            act()
        # As above: no error of reporting may fail the training either.
        except Exception as exc:  # noqa: BLE001
            _log.warning("the platform could not be told of the tracking: %s: %s", type(exc).__name__, exc)

    thread = threading.Thread(target=guarded, name="rayplane-train-report", daemon=True)
    thread.start()
    return thread


def _described(train: TrainRunContext) -> _Description:
    import ray

    scaling = train.scaling_config
    wanted = {
        "num_workers": scaling.num_workers,
        "use_gpu": scaling.use_gpu,
        "resources_per_worker": scaling.resources_per_worker,
        "placement_strategy": scaling.placement_strategy,
    }
    run_config = train.run_config
    storage = run_config.storage_context.experiment_fs_path
    return _Description(
        params=parameters(train.train_loop_config, {k: v for k, v in wanted.items() if v is not None}),
        storage=str(storage),
        tags={
            "ray.version": ray.__version__,
            "ray.train.name": str(run_config.name),
            "ray.train.storage": str(storage),
        },
    )


def _uri(checkpoint: Any) -> str:
    return str(checkpoint.path)


def _chunks(items: Sequence[tuple[str, str]], size: int) -> Iterator[Iterable[tuple[str, str]]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
