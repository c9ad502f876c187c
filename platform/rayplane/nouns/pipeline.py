"""Pipeline: a DAG of jobs, and its runs."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from rayplane.nouns.base import Instant, Name, Package, Plain, Record, Seconds, Spec, Status, Whole, as_stored
from rayplane.nouns.job import Output, Variables


class Step(Spec):
    """One job of a pipeline."""

    entrypoint: str = Field(min_length=1)
    """Shell command of the step's job."""
    needs: list[Name] = Field(default_factory=list)
    """Steps that must succeed before this one, beside those that make its inputs."""
    inputs: list[Name] = Field(default_factory=list)
    """Datasets that the step reads, each the output of another step, which therefore runs before this one."""
    outputs: list[Name] = Field(default_factory=list)
    """Datasets that the step publishes; a missing one fails the step."""
    sources: dict[Name, str] = Field(default_factory=dict)
    """Name -> URI of data outside the platform; its content is part of the step's key. ``${parameter}`` is replaced."""
    parameters: dict[str, str] = Field(default_factory=dict)
    """``${parameter}`` is replaced from the run's parameters."""
    env: Variables = Field(default_factory=dict)
    """Environment variables; never secrets."""
    files: list[str] = Field(default_factory=list)
    """Globs of files in the package that the step reads beside its Python code; their content is part of its key."""
    retries: Whole = Field(default=0, ge=0, le=20)
    """Further attempts after one that failed. The first two that were lost with their head do not count."""
    timeout: Seconds | None = None
    """Seconds that the step's job may take; None: no limit."""
    cache: bool = True
    """True if outputs of an earlier run with the same key may be used instead of running the step."""
    tracked: bool = False
    """True if the step's job gets an MLflow run."""


class PipelineSpec(Spec):
    """Steps on one cluster, with one code package."""

    cluster: Name
    """The team's cluster that all steps run on."""
    package: Package | None = None
    """Content address (``sha256:<hex>``) of the code; the client uploads the working folder and fills it in."""
    parameters: dict[str, str] = Field(default_factory=dict)
    """Parameters and their defaults."""
    steps: dict[Name, Step] = Field(min_length=1)
    """Name -> step. Their needs and inputs form no cycle."""
    experiment: Plain | None = None
    """MLflow experiment of the steps' runs; default: the pipeline's name."""

    @model_validator(mode="after")
    def _is_a_dag(self) -> PipelineSpec:
        makers: dict[str, str] = {}
        for name, step in self.steps.items():
            for dataset in step.outputs:
                if dataset in makers:
                    raise ValueError(f"dataset '{dataset}' is an output of both '{makers[dataset]}' and '{name}'")
                makers[dataset] = name
        for name, step in self.steps.items():
            for need in step.needs:
                if need not in self.steps:
                    raise ValueError(f"step '{name}' needs '{need}', which is not a step")
            for dataset in step.inputs:
                if dataset not in makers:
                    raise ValueError(f"step '{name}' reads '{dataset}', which no step makes")
        self.order()
        return self

    def makers(self) -> dict[str, str]:
        """Dataset name -> name of the step that makes it."""
        return {dataset: name for name, step in self.steps.items() for dataset in step.outputs}

    def needs_of(self, name: str) -> list[str]:
        """All steps that must end before this one, sorted: its needs and the makers of its inputs."""
        step, makers = self.steps[name], self.makers()
        return sorted({*step.needs, *(makers[d] for d in step.inputs)})

    def order(self) -> list[str]:
        """The steps in an order that respects their needs; raises ValueError naming the steps that form a cycle."""
        done: list[str] = []
        left = dict.fromkeys(self.steps)
        while left:
            ready = [name for name in left if all(n in done for n in self.needs_of(name))]
            if not ready:
                raise ValueError(f"the steps {', '.join(sorted(left))} need each other in a circle")
            for name in ready:
                done.append(name)
                del left[name]
        return done


class PipelineStatus(Status):
    """State of a pipeline, which is Ready once its spec is stored; each run has its own state. Phase: Ready."""

    last_run: str | None = None
    """Name of the newest run."""


class StepRun(Record):
    """One step of one run. Phases: Pending, Running, Succeeded, Cached, Failed, Stopped, Skipped."""

    name: str
    """Name of the step."""
    phase: str = "Pending"
    """State of the step."""
    key: str | None = None
    """Hash of all that the outputs depend on; the cache is looked up by it."""
    job: str | None = None
    """Name of the step's job; None if it has none."""
    cached_from: str | None = None
    """The run whose outputs were reused."""
    started_at: Instant | None = None
    """Time at which the step's turn came."""
    ended_at: Instant | None = None
    """Time at which it was over."""
    message: str = ""
    """Reason for a failure or a skip."""
    outputs: list[Output] = Field(default_factory=list)
    """Results of the step's job, or those of the cache."""

    @property
    def seconds(self) -> float:
        """Wall time in seconds; 0 until it has ended."""
        if self.started_at is None or self.ended_at is None:
            return 0.0
        return (self.ended_at - self.started_at).total_seconds()


class RunSpec(Spec):
    """One requested run of a pipeline: the pipeline's spec at the time of the request, and the parameters."""

    pipeline: Name
    """Name of the pipeline."""
    parameters: dict[str, str] = Field(default_factory=dict)
    """Name -> value, which replaces the pipeline's default."""
    force: bool = False
    """Run every step again, even if its outputs are cached."""
    snapshot: dict[str, Any] = Field(default_factory=dict)
    """The PipelineSpec at the time of the request."""
    stop_requested: bool = False
    """True once a user asked the run to stop."""

    @property
    def pipeline_spec(self) -> PipelineSpec:
        """The snapshot, parsed as leniently as what is stored: it may be older than today's rules."""
        return as_stored(PipelineSpec, self.snapshot)


class RunStatus(Status):
    """Phases: Pending, Running, Succeeded, Failed, Stopped."""

    steps: list[StepRun] = Field(default_factory=list)
    """State of each step, in an order that respects their needs."""
    message: str = ""
    """Reason for the end; empty if the run succeeded."""
    started_at: Instant | None = None
    """Start of the run."""
    ended_at: Instant | None = None
    """End of the run."""


class StepResult(Record):
    """A row of the step cache: the outputs of a step with this key."""

    key: str
    run: str
    job: str | None
    outputs: list[Output]
