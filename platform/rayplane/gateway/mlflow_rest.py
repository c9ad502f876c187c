"""Client of MLflow's REST API, as its admin: a workspace, user and role per team; runs; versions behind aliases."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Literal
from urllib.parse import quote

import httpx

from rayplane.errors import Conflict, Forbidden, InvalidInput, NotFound, RayplaneError, Unauthenticated, Unavailable

WORKSPACE_HEADER = "X-MLFLOW-WORKSPACE"
ROLE = "rayplane-team"
# USE of the workspace lets a member create resources there, but gives no access to those that others created (the
# platform creates the experiments): hence MANAGE on each type. MANAGE on the workspace would let it assign roles.
_GRANTS = {
    "workspace": "USE",
    "experiment": "MANAGE",
    "registered_model": "MANAGE",
    "prompt": "MANAGE",
    "scorer": "MANAGE",
}

_DEFAULT = "default"
"""MLflow's own workspace, which belongs to no team."""

RunEnd = Literal["FINISHED", "FAILED", "KILLED"]


class MlflowRest:
    """A client of one tracking server. Thread-safe. Every call raises Unavailable while the server does not answer."""

    def __init__(
        self,
        url: str,
        user: str,
        password: str,
        *,
        timeout: float = 20.0,
        reread: Callable[[], tuple[str, str]] | None = None,
    ) -> None:
        """``reread`` reads the admin's user name and password again: another gateway may have changed them."""
        self.url = url.rstrip("/")
        self._admin, self._reread_admin = (user, password), reread
        self._http = httpx.Client(auth=(user, password), timeout=timeout, trust_env=False)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def healthy(self) -> bool:
        """True if the API (not just the process) answers the admin."""
        try:
            return self._send("GET", "/api/3.0/mlflow/workspaces").is_success
        except Unavailable:
            return False

    def ensure_workspace(self, workspace: str, owner: str, *, adopt: bool = False) -> bool:
        """Create the workspace of a team; False if a workspace of this name exists and belongs to another owner.

        The description names the ``owner``. ``adopt``: accept an existing one, whatever its description says.
        """
        description = f"rayplane team {owner}"
        known = self._find("GET", _workspace(workspace))
        if known is None:
            self._make(_workspace(), {"name": workspace, "description": description})
            return True
        return adopt or known["workspace"].get("description") == description

    def delete_workspace(self, workspace: str) -> None:
        """Delete a workspace with its experiments, runs, models and roles; a missing one is success.

        Artifacts stay where they are. MLflow never reuses the ids of the deleted experiments.
        """
        # On SQLite MLflow would reuse the newest experiment's id once it is deleted. A newer experiment in the default
        # workspace, only marked as deleted, keeps the ids growing.
        body = {"experiment_id": self.ensure_experiment(_DEFAULT, f"rayplane-purged-{workspace}")}
        self._call("POST", "/api/2.0/mlflow/experiments/delete", _DEFAULT, json=body)
        self._find("DELETE", _workspace(workspace), params={"mode": "CASCADE"})

    def ensure_user(self, workspace: str, user: str, password: str) -> None:
        """Create or update the team's user, with this password and a role in the team's workspace alone."""
        if self._find("GET", "/api/2.0/mlflow/users/get", params={"username": user}) is None:
            self._make("/api/2.0/mlflow/users/create", {"username": user, "password": password})
        else:
            self.change_password(user, password)
        role = self._ensure_role(workspace)
        roles = self._call("GET", "/api/3.0/mlflow/users/roles/list", params={"username": user})["roles"]
        if role not in [r["id"] for r in roles]:
            self._make("/api/3.0/mlflow/roles/assign", {"username": user, "role_id": role})

    def delete_user(self, user: str) -> None:
        """Delete the user; a missing one is success. What the user created stays in the workspace."""
        self._find("DELETE", "/api/2.0/mlflow/users/delete", json={"username": user})

    def change_password(self, user: str, password: str) -> None:
        """Change the password of a user or of the admin. Raises Unauthenticated if the admin's current one is wrong."""
        body = {"username": user, "password": password}
        if user == self._admin[0]:
            body["current_password"] = self._admin[1]  # MLflow requires it of a user that changes its own
        self._call("PATCH", "/api/2.0/mlflow/users/update-password", json=body)

    def require_admin(self) -> None:
        """Raise Unauthenticated if the server refuses the admin's password."""
        self._call("GET", "/api/3.0/mlflow/workspaces")

    def use(self, user: str, password: str) -> None:
        """Authenticate as this admin from now on."""
        self._admin = (user, password)
        self._http.auth = self._admin

    def ensure_experiment(self, workspace: str, name: str) -> str:
        """The id of the team's experiment of this name, created or restored if need be."""
        experiment = self._experiment(workspace, name)
        if experiment is None:
            try:
                answer = self._call("POST", "/api/2.0/mlflow/experiments/create", workspace, json={"name": name})
                return str(answer["experiment_id"])
            except Conflict:
                experiment = self._experiment(workspace, name)
        if experiment is None:
            raise Conflict(f"MLflow can neither find nor create the experiment '{name}' in workspace '{workspace}'.")
        if experiment.get("lifecycle_stage") == "deleted":
            body = {"experiment_id": experiment["experiment_id"]}
            self._call("POST", "/api/2.0/mlflow/experiments/restore", workspace, json=body)
        return str(experiment["experiment_id"])

    def create_run(self, workspace: str, experiment_id: str, *, tags: Mapping[str, str], name: str) -> str:
        """Create a run (status RUNNING) and return its id."""
        body = {
            "experiment_id": experiment_id,
            "run_name": name,
            "start_time": _now(),
            "tags": _tags(tags),
        }
        run_id: str = self._call("POST", "/api/2.0/mlflow/runs/create", workspace, json=body)["run"]["info"]["run_id"]
        return run_id

    def find_run(self, workspace: str, experiment_id: str, tag: str, value: str) -> str | None:
        """The id of the oldest run in the experiment that carries this tag, if any."""
        body = {
            "experiment_ids": [experiment_id],
            "filter": f"tags.`{tag}` = '{value}'",
            "order_by": ["attributes.start_time ASC"],
            "max_results": 1,
        }
        runs = self._call("POST", "/api/2.0/mlflow/runs/search", workspace, json=body).get("runs", [])
        return str(runs[0]["info"]["run_id"]) if runs else None

    def get_run(self, workspace: str, run_id: str) -> dict[str, Any] | None:
        """The run as MLflow shows it (``info``, ``data``); None if there is none, or if it is deleted."""
        answer = self._find("GET", "/api/2.0/mlflow/runs/get", workspace, params={"run_id": run_id})
        if answer is None or answer["run"]["info"].get("lifecycle_stage") == "deleted":
            return None
        run: dict[str, Any] = answer["run"]
        return run

    def set_tags(self, workspace: str, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags on a run; existing tags get the new value."""
        self._call("POST", "/api/2.0/mlflow/runs/log-batch", workspace, json={"run_id": run_id, "tags": _tags(tags)})

    def resume_run(self, workspace: str, run_id: str) -> None:
        """Mark a run as running again: another attempt continues it."""
        self._call("POST", "/api/2.0/mlflow/runs/update", workspace, json={"run_id": run_id, "status": "RUNNING"})

    def end_run(self, workspace: str, run_id: str, status: RunEnd) -> None:
        """End a run; ending it twice is success."""
        body = {"run_id": run_id, "status": status, "end_time": _now()}
        self._call("POST", "/api/2.0/mlflow/runs/update", workspace, json=body)

    def alias_version(self, workspace: str, model: str, alias: str) -> str | None:
        """The version that an alias points to; None if there is no such model or alias."""
        params = {"name": model, "alias": alias}
        try:
            answer = self._find("GET", "/api/2.0/mlflow/registered-models/alias", workspace, params=params)
        except InvalidInput:
            return None  # MLflow answers 400 INVALID_PARAMETER_VALUE for an alias that was never set
        return str(answer["model_version"]["version"]) if answer else None

    def model_version(self, workspace: str, model: str, version: str) -> dict[str, Any] | None:
        """A model version as MLflow shows it (``name``, ``version``, ``run_id``...); None if there is none."""
        params = {"name": model, "version": version}
        answer = self._find("GET", "/api/2.0/mlflow/model-versions/get", workspace, params=params)
        version_info: dict[str, Any] | None = answer["model_version"] if answer else None
        return version_info

    def _experiment(self, workspace: str, name: str) -> dict[str, Any] | None:
        params = {"experiment_name": name}
        answer = self._find("GET", "/api/2.0/mlflow/experiments/get-by-name", workspace, params=params)
        experiment: dict[str, Any] | None = answer["experiment"] if answer else None
        return experiment

    def _ensure_role(self, workspace: str) -> int:
        listed = self._call("GET", "/api/3.0/mlflow/roles/list", params={"workspace": workspace})["roles"]
        role = next((r for r in listed if r["name"] == ROLE), None)
        if role is None:
            body = {"workspace": workspace, "name": ROLE, "description": "Members of the workspace"}
            role = self._call("POST", "/api/3.0/mlflow/roles/create", json=body)["role"]
        role_id = int(role["id"])
        answer = self._call("GET", "/api/3.0/mlflow/roles/permissions/list", params={"role_id": str(role_id)})
        granted = {p["resource_type"] for p in answer["role_permissions"] if p["resource_pattern"] == "*"}
        for resource, permission in _GRANTS.items():
            if resource not in granted:
                grant = {
                    "role_id": role_id,
                    "resource_type": resource,
                    "resource_pattern": "*",
                    "permission": permission,
                }
                self._make("/api/3.0/mlflow/roles/permissions/add", grant)
        return role_id

    def _make(self, path: str, body: Mapping[str, Any]) -> None:
        """Create something by a POST; success too if it exists already."""
        try:
            self._call("POST", path, json=dict(body))
        except Conflict:
            return

    def _find(self, method: str, path: str, workspace: str | None = None, **kwargs: Any) -> dict[str, Any] | None:
        try:
            return self._call(method, path, workspace, **kwargs)
        except NotFound:
            return None

    def _call(self, method: str, path: str, workspace: str | None = None, **kwargs: Any) -> dict[str, Any]:
        response = self._send(method, path, workspace, **kwargs)
        if not response.is_success:
            raise _error(response)
        answer: dict[str, Any] = response.json() if response.content else {}
        return answer

    def _reread(self) -> bool:
        """Use the admin's credentials as the home has them now; True if they have changed."""
        current = self._reread_admin() if self._reread_admin is not None else self._admin
        if current == self._admin:
            return False
        self.use(*current)
        return True

    def _send(self, method: str, path: str, workspace: str | None = None, **kwargs: Any) -> httpx.Response:
        headers = {WORKSPACE_HEADER: workspace} if workspace else {}
        try:
            response = self._http.request(method, self.url + path, headers=headers, **kwargs)
            if response.status_code == 401 and self._reread():
                response = self._http.request(method, self.url + path, headers=headers, **kwargs)
            return response
        except httpx.TransportError as exc:
            raise Unavailable(
                f"MLflow does not answer at {self.url}: {exc or type(exc).__name__}.",
                remedy="Look at it with 'rayplane status'; 'rayplane up' starts it again.",
            ) from exc


def _workspace(name: str | None = None) -> str:
    return "/api/3.0/mlflow/workspaces" + (f"/{quote(name, safe='')}" if name else "")


def _now() -> int:
    return int(time.time() * 1000)


def _tags(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in tags.items()]


_BY_CODE: dict[str, type[RayplaneError]] = {
    "RESOURCE_DOES_NOT_EXIST": NotFound,
    "RESOURCE_ALREADY_EXISTS": Conflict,
    "INVALID_PARAMETER_VALUE": InvalidInput,
    "PERMISSION_DENIED": Forbidden,
}


def _error(response: httpx.Response) -> RayplaneError:
    try:
        body = response.json()
    except ValueError:
        body = {}
    code = body.get("error_code", "") if isinstance(body, dict) else ""
    message = body.get("message") if isinstance(body, dict) else None
    reason = message or response.text.strip()[:300] or "no reason given"
    what = f"MLflow answered {response.status_code} to {response.request.method} {response.request.url.path}: {reason}"
    if code in _BY_CODE:
        return _BY_CODE[code](what)
    if response.status_code == 401:
        return Unauthenticated(what, remedy="The admin's password in the home is not the server's; run 'rayplane up'.")
    if response.status_code == 403:
        return Forbidden(what)
    if response.status_code == 404:
        return NotFound(what)
    return Unavailable(what) if response.status_code >= 500 else InvalidInput(what)
