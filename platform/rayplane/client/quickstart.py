"""The quickstart: apply the flights documents, run the pipeline, wait for the service, ask it, report the results.

Every figure of the report is read from the platform (the run's outputs, dataset versions, the registry, Prometheus).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from pydantic import BaseModel, Field

from rayplane.client import packaging, sdk
from rayplane.client.sdk import Client, Clock, Progress, waiting, why
from rayplane.errors import Failed, InvalidInput, NotFound, Timeout, Unavailable
from rayplane.nouns.base import Document, Object
from rayplane.nouns.job import Output
from rayplane.nouns.pipeline import StepRun

TEAM, CLUSTER, PIPELINE, SERVICE = "flights", "dev", "flights", "flight-delay"
DOCUMENTS = Path("jobs") / "flights.yaml"
REQUESTS = Path("jobs") / "flights-requests.json"
"""Real flights of the test period, for which predictions are requested as an application would."""

SERVICE_TIMEOUT = 300.0
SCRAPE_TIMEOUT = 60.0
"""Seconds within which Prometheus must have scraped every target: two scrape intervals and some spare time."""
LOG_TAIL = 20

Say = Callable[[str], None]


class Rows(BaseModel):
    """Numbers of flights read, accepted and rejected: ingested = prepared + quarantined."""

    ingested: int
    prepared: int
    quarantined: int


class RegisteredModel(BaseModel):
    """The version that this run registered, and the alias that points to it."""

    name: str
    version: str
    alias: str


class Prediction(BaseModel):
    """A request to the service and its answer."""

    request: dict[str, Any]
    answer: Any


class Targets(BaseModel):
    """Prometheus' targets: how many there are, and how many answer."""

    up: int
    total: int


class Stage(BaseModel):
    """One stage: a step of the pipeline, or work before or after it. Wall time in seconds."""

    name: str
    seconds: float
    cached: bool = False


class Report(BaseModel):
    """Results of the quickstart."""

    rows: Rows
    training_rows: int
    feature_views: list[str]
    run_id: str
    auc: float
    baseline_auc: float
    model: RegisteredModel
    service_url: str
    predictions: list[Prediction]
    prometheus: Targets | None
    """None where the platform runs without Prometheus."""
    stages: list[Stage]
    seconds: float = Field(description="Wall time of the whole job.")


def run(
    api: Client,
    folder: Path,
    *,
    days: int | None,
    say: Say,
    documents: Path | None = None,
    watching: Callable[[], Any],
) -> Report:
    """Run the quickstart with the code in ``folder``, on the first ``days`` of January only, if given.

    ``documents`` replaces the folder's ``jobs/flights.yaml``, for example to use another backend for the same team.

    ``watching`` returns a context manager whose value is called with the run object as its steps progress. Raises
    InvalidInput if the folder lacks the documents, Failed with the end of the log if a step fails, or an SDK error.
    """
    clock = api.clock
    began = clock.now()
    source = documents or folder / DOCUMENTS
    wanted, requests = read_documents(source), read_requests(folder)
    stages: list[Stage] = []

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        started = clock.now()
        yield
        stages.append(Stage(name=name, seconds=round(clock.now() - started, 3)))

    say(f"applying {source} to {api.url}")
    _apply(api, wanted, folder, say)
    with stage("cluster"):
        say(f"waiting for cluster {TEAM}/{CLUSTER}")
        api.clusters.wait(TEAM, CLUSTER)
    ended = _run_pipeline(api, _parameters(days), say, watching)
    steps = _steps(ended)
    stages += _stages_of(ended, steps)
    outputs = [output for step in steps.values() for output in step.outputs]
    model = _registered(api, steps)
    with stage("deploy"):
        say(f"waiting for service {TEAM}/{SERVICE} to be on version {model.version}")
        service = _wait_service(api, model.version)
    url = str(service.status["url"])
    with stage("predict"):
        predictions = [Prediction(request=request, answer=ask(url, request, clock=clock)) for request in requests]
    with stage("metrics"):
        targets = _targets(api, say)
    figures = _value(steps, "evaluate", "gate")
    return Report(
        rows=Rows(
            ingested=_dataset_rows(api, outputs, "flights-raw"),
            prepared=_dataset_rows(api, outputs, "flights"),
            quarantined=_dataset_rows(api, outputs, "flights-quarantine"),
        ),
        training_rows=_dataset_rows(api, outputs, "training-set"),
        feature_views=_value(steps, "materialize", "feature_views"),
        run_id=_run_id(steps),
        auc=figures["auc"],
        baseline_auc=figures["baseline_auc"],
        model=model,
        service_url=url,
        predictions=predictions,
        prometheus=targets,
        stages=stages,
        seconds=round(clock.now() - began, 3),
    )


def read_documents(path: Path) -> list[Document]:
    """Read the documents of a file such as ``jobs/flights.yaml``.

    Raises InvalidInput if the file can't be read, InvalidSpec if a document is wrong.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidInput(
            f"'{path}' can't be read: {exc.strerror if isinstance(exc, OSError) else 'it is no text'}.",
            remedy="Run this in a clone of rayplane, or name one: rayplane quickstart --folder <clone>.",
        ) from exc
    return sdk.read_documents(text, str(path))


def read_requests(folder: Path) -> list[dict[str, Any]]:
    """Read the flights to request predictions for. Raises InvalidInput if the file is missing or is no JSON list."""
    path = folder / REQUESTS
    try:
        requests = json.loads(path.read_text())
    except (OSError, ValueError) as exc:
        raise InvalidInput(f"'{path}' can't be read: {exc}.", remedy="Restore it from the repository.") from exc
    if not isinstance(requests, list) or not requests:
        raise InvalidInput(f"'{path}' is no list of requests.", remedy="Restore it from the repository.")
    return requests


def ask(url: str, request: Mapping[str, Any], *, patience: float = 30.0, clock: Clock | None = None) -> Any:
    """The service's answer to one request over HTTP. Raises Unavailable, or Failed with the text of the answer.

    Retries for ``patience`` seconds while the service can't be reached: the Serve proxies of all nodes and an ingress
    learn of a service only moments after it has become ready.
    """
    clock = clock or Clock()
    deadline = clock.now() + patience
    while True:
        try:
            answer = _post(url, request)
            break
        except Unavailable:
            if clock.now() > deadline:
                raise
            clock.sleep(0.5)
    if answer.is_error:
        raise Failed(f"The service at {url} answered {answer.status_code}: {answer.text[:500]}")
    return answer.json()


def _post(url: str, request: Mapping[str, Any]) -> httpx.Response:
    """Send the request; raises Unavailable if nothing answers, or only a proxy in front of the service does."""
    try:
        answer = httpx.post(url, json={"instances": [request]}, timeout=60, trust_env=False)
    except httpx.TransportError as exc:
        raise _unreachable(url, str(exc) or type(exc).__name__) from exc
    if answer.status_code in (502, 503, 504):
        raise _unreachable(url, f"{answer.status_code}: {answer.text[:500]}")
    return answer


def _unreachable(url: str, reason: str) -> Unavailable:
    return Unavailable(f"The service at {url} can't be reached ({reason}).", remedy="Try again.")


def _apply(api: Client, documents: Sequence[Document], folder: Path, say: Say) -> None:
    ready = []
    for document in documents:
        package = document.spec.get("package")
        if isinstance(package, str) and not packaging.is_address(package):
            document = document.model_copy(update={"spec": {**document.spec, "package": str(folder)}})
        ready.append(document)
    for change in api.apply_documents(ready):
        say(f"  {change}")


SLICE = {
    # The data ends before the documents' default instant: features are materialized as of the end of the data.
    "materialize_at": "",
    # The documents' gate is meant for the whole year. A few days show that the steps work, not that a model is good.
    "min_auc": "0",
    "min_gain": "-1",
    "max_ece": "1",
    "min_slice_auc": "0",
    "min_slice_rows": "1",
}
"""Parameters of a run on the first days of January."""


def _parameters(days: int | None) -> dict[str, str]:
    return {} if days is None else {"days": str(days), **SLICE}


def _run_pipeline(api: Client, parameters: Mapping[str, str], say: Say, watching: Callable[[], Any]) -> Object:
    started = api.pipelines.run(TEAM, PIPELINE, parameters)
    name = started.metadata.name
    say(f"run {TEAM}/{name} started")
    show: Progress
    with watching() as show:
        ended = api.pipelines.wait_run(TEAM, PIPELINE, name, phases={"Succeeded", "Failed", "Stopped"}, progress=show)
    if ended.status.get("phase") != "Succeeded":
        raise _failure(api, ended)
    return ended


def _failure(api: Client, run: Object) -> Failed:
    """The error for a failed run: its first failed step, the end of that step's log, and how to read the rest."""
    name = run.metadata.name
    failed = next((step for step in _steps(run).values() if step.phase == "Failed"), None)
    if failed is None or failed.job is None:
        reason = failed.message if failed else why(run)
        where = f" in step '{failed.name}'" if failed else ""
        return Failed(
            f"Run '{TEAM}/{name}' {str(run.status.get('phase')).lower()}{where}: {reason or 'no reason was given'}",
            remedy=f"See: rayplane pipeline runs {PIPELINE} --team {TEAM} -o json",
        )
    tail = "\n".join(f"    {line}" for line in _log_tail(api, failed.job))
    return Failed(
        f"Run '{TEAM}/{name}' failed in step '{failed.name}': {failed.message or 'no reason was given'}\n"
        f"  Its log ends:\n{tail}\n",
        remedy=f"Read all of it with: rayplane job logs {failed.job} --team {TEAM}",
    )


def _log_tail(api: Client, job: str) -> list[str]:
    try:
        text = "".join(api.jobs.logs(TEAM, job, follow=False))
    except NotFound:
        return ["(the job left no log)"]
    return text.splitlines()[-LOG_TAIL:] or ["(its log is empty)"]


def _steps(run: Object) -> dict[str, StepRun]:
    return {step["name"]: StepRun.model_validate(step) for step in run.status.get("steps", [])}


def _stages_of(run: Object, steps: Mapping[str, StepRun]) -> list[Stage]:
    made = [Stage(name=s.name, seconds=round(s.seconds, 3), cached=s.phase == "Cached") for s in steps.values()]
    begun = run.status.get("started_at")
    starts = [step.started_at for step in steps.values() if step.started_at is not None]
    if begun is None or not starts:
        return made
    observed = min(starts).timestamp() - StepRun(name="run", started_at=begun).started_at.timestamp()  # type: ignore[union-attr]
    return [Stage(name="observe", seconds=round(max(0.0, observed), 3)), *made]


def _registered(api: Client, steps: Mapping[str, StepRun]) -> RegisteredModel:
    """The version that the run registered, with the alias that points to it now."""
    made = _value(steps, "register", "model")
    name, version = str(made["name"]), str(made["version"])
    aliases = api.models.get(TEAM, name).status.get("aliases", {})
    alias = next((alias for alias, pointed in aliases.items() if str(pointed) == version), None)
    if alias is None:
        raise Failed(
            f"No alias of model '{name}' points to version {version}, which this run registered.",
            remedy=f"See: rayplane model get {name} --team {TEAM}",
        )
    return RegisteredModel(name=name, version=version, alias=str(alias))


def _run_id(steps: Mapping[str, StepRun]) -> str:
    run_id = next((o.value for o in steps["train"].outputs if o.kind == "run"), None)
    if run_id is None:
        raise Failed("The step 'train' left no MLflow run.", remedy="Its document must say 'tracked: true'.")
    return str(run_id)


def _value(steps: Mapping[str, StepRun], step: str, name: str) -> Any:
    """The value that a step recorded as output ``name``; raises Failed if there is none."""
    outputs = steps[step].outputs if step in steps else []
    for output in outputs:
        if output.kind == "value" and output.name == name:
            return output.value
    raise Failed(
        f"The step '{step}' recorded no '{name}'.", remedy=f"Report it in its code: report.output('{name}', ...)."
    )


def _dataset_rows(api: Client, outputs: Sequence[Output], name: str) -> int:
    version = next((o.value for o in outputs if o.kind == "dataset" and o.name == name), None)
    if version is None:
        raise Failed(f"The run published no version of dataset '{name}'.")
    return api.datasets.version(TEAM, name, str(version)).rows


def _wait_service(api: Client, version: str) -> Object:
    """Wait until the service serves the registered version; ignore its phase while it serves another version."""
    name = f"Service '{TEAM}/{SERVICE}'"
    remedy = f"See: rayplane service get {SERVICE} --team {TEAM}"

    def is_ready(service: Object) -> bool:
        phase = service.status.get("phase")
        if _served_version(service) != version:
            return False
        if phase == "Failed":
            raise Failed(f"{name} can't serve version {version}: {_last_line(service)}.", remedy=remedy)
        return bool(phase == "Ready")

    def late(service: Object) -> Timeout:
        phase, serves = service.status.get("phase"), _served_version(service)
        return Timeout(
            f"{name} is {phase} on version {serves}, not ready on {version}: {_last_line(service)}.", remedy=remedy
        )

    def get() -> Object:
        return api.services.get(TEAM, SERVICE)

    return waiting.until(get, is_ready, clock=api.clock, timeout=SERVICE_TIMEOUT, late=late)


def _served_version(service: Object) -> str:
    return str((service.status.get("revision") or {}).get("version"))


def _last_line(service: Object) -> str:
    """The last line of the service's reason: a replica that can't start reports a traceback, which ends so."""
    return (why(service).splitlines() or ["no reason was given"])[-1].strip()


def _targets(api: Client, say: Say) -> Targets | None:
    """Wait until Prometheus has scraped all targets, including the cluster's, or for SCRAPE_TIMEOUT; count them."""
    url = api.info().get("prometheus_url")
    if not url:
        say("the platform runs without Prometheus")
        return None
    deadline = api.clock.now() + SCRAPE_TIMEOUT
    while True:
        active = active_targets(str(url))
        targets = Targets(up=sum(t["health"] == "up" for t in active), total=len(active))
        complete = targets.up == targets.total and any(t["labels"].get("cluster") == CLUSTER for t in active)
        if complete or api.clock.now() > deadline:
            return targets
        api.clock.sleep(1.0)


def active_targets(url: str) -> list[dict[str, Any]]:
    """The active targets according to Prometheus' API. Raises Unavailable."""
    try:
        answer = httpx.get(f"{url}/api/v1/targets", params={"state": "active"}, timeout=10, trust_env=False)
        answer.raise_for_status()
        targets: list[dict[str, Any]] = answer.json()["data"]["activeTargets"]
    except httpx.HTTPError as exc:
        raise Unavailable(f"Prometheus at {url} does not answer ({exc}).", remedy="Run 'rayplane up'.") from exc
    return targets
