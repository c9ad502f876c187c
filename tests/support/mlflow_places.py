"""Data that a job leaves in a real MLflow server, and every path of its API that returns some of it."""

from __future__ import annotations

import httpx

from rayplane.gateway.mlflow_rest import WORKSPACE_HEADER

EXPERIMENT, MODEL, ALIAS, FILE = "old-experiment", "old-model", "champion", "note.txt"


def client(url: str, user: tuple[str, str], workspace: str) -> httpx.Client:
    """A client of MLflow's API in a workspace."""
    return httpx.Client(base_url=url, auth=user, headers={WORKSPACE_HEADER: workspace}, timeout=60)


def places(run_id: str, experiment_id: str) -> list[str]:
    """Paths of MLflow's API that return the run, its experiment, its model and its file."""
    run = f"run_id={run_id}"
    return [
        f"/api/2.0/mlflow/runs/get?{run}",
        f"/api/2.0/mlflow/artifacts/list?{run}",
        f"/get-artifact?{run}&path={FILE}",
        f"/api/2.0/mlflow/metrics/get-history?{run}&metric_key=loss",
        f"/api/2.0/mlflow/experiments/get?experiment_id={experiment_id}",
        f"/api/2.0/mlflow/experiments/get-by-name?experiment_name={EXPERIMENT}",
        f"/api/2.0/mlflow/registered-models/get?name={MODEL}",
        f"/api/2.0/mlflow/registered-models/alias?name={MODEL}&alias={ALIAS}",
        f"/api/2.0/mlflow/model-versions/get?name={MODEL}&version=1",
        f"/api/2.0/mlflow-artifacts/artifacts/{experiment_id}/{run_id}/artifacts/{FILE}",
    ]


def found(url: str, user: tuple[str, str], workspace: str, asked: list[str]) -> dict[str, str]:
    """Successful answers to a user in a workspace, by path."""
    with client(url, user, workspace) as api:
        answers = {path: api.get(path) for path in asked}
    return {path: answer.text for path, answer in answers.items() if answer.is_success}


def listed(url: str, user: tuple[str, str], workspace: str) -> dict[str, list[str]]:
    """Names that MLflow lists in a workspace: experiments, runs, models, versions; and the workspaces that it shows."""
    with client(url, user, workspace) as api:
        experiments = api.get("/api/2.0/mlflow/experiments/search?max_results=100&view_type=ALL").json()
        ids = [experiment["experiment_id"] for experiment in experiments.get("experiments", [])]
        runs = api.post("/api/2.0/mlflow/runs/search", json={"experiment_ids": ids}).json() if ids else {}
        models = api.get("/api/2.0/mlflow/registered-models/search").json()
        versions = api.get("/api/2.0/mlflow/model-versions/search").json()
        workspaces = api.get("/api/3.0/mlflow/workspaces").json()
    return {
        "experiments": [e["name"] for e in experiments.get("experiments", []) if e["name"] != "Default"],
        "runs": [run["info"]["run_id"] for run in runs.get("runs", [])],
        "models": [model["name"] for model in models.get("registered_models", [])],
        "versions": [version["name"] for version in versions.get("model_versions", [])],
        "workspaces": sorted(workspace["name"] for workspace in workspaces.get("workspaces", [])),
    }
