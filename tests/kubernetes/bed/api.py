"""A small client of the Kubernetes API for the bed and its tests, independent of the adapter that they test.

It speaks JSON over HTTPS with the credentials of a kubeconfig. Every answer that is not a success raises ApiError.
"""

from __future__ import annotations

import base64
import json
import ssl
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import httpx
import yaml

Object = dict[str, Any]
T = TypeVar("T")

FIELD_MANAGER = "test-bed"


class ApiError(Exception):
    """The API server refused. ``status`` is the HTTP status, ``reason`` Kubernetes' word for it."""

    def __init__(self, response: httpx.Response) -> None:
        try:
            body = response.json()
        except json.JSONDecodeError:
            body = {"message": response.text}
        self.status = response.status_code
        self.reason = str(body.get("reason", ""))
        self.body = body
        super().__init__(
            f"{response.request.method} {response.request.url.path}: {self.status} {body.get('message', '')}"
        )


class Api:
    """The API server as the user of a kubeconfig. Close it, or use it as a context manager."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        context = _named(config["contexts"], config["current-context"])["context"]
        cluster = _named(config["clusters"], context["cluster"])["cluster"]
        user = _named(config["users"], context["user"])["user"]
        headers = {"Authorization": f"Bearer {user['token']}"} if "token" in user else {}
        self._client = httpx.Client(
            base_url=cluster["server"], verify=_tls(cluster, user), headers=headers, timeout=60.0, trust_env=False
        )
        self._plurals: dict[tuple[str, str], tuple[str, bool]] = {}

    def __enter__(self) -> Api:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def request(self, method: str, path: str, **options: Any) -> Any:
        """One request to a path; the answer's JSON, or its text where it is none."""
        response = self._client.request(method, path, **options)
        if not response.is_success:
            raise ApiError(response)
        return response.json() if "json" in response.headers.get("content-type", "") else response.text

    def apply(self, manifest: Object, *, manager: str = FIELD_MANAGER) -> Object:
        """Apply an object by server-side apply."""
        answer: Object = self.request(
            "PATCH",
            self.path(manifest["apiVersion"], manifest["kind"], **_place(manifest)),
            params={"fieldManager": manager, "force": "true"},
            headers={"Content-Type": "application/apply-patch+yaml"},
            content=json.dumps(manifest, ensure_ascii=False).encode(),  # YAML of Go takes no escaped surrogates
        )
        return answer

    def create(self, manifest: Object) -> Object:
        """Create an object; one that is there is an error."""
        where = {key: value for key, value in _place(manifest).items() if key != "name"}
        answer: Object = self.request(
            "POST", self.path(manifest["apiVersion"], manifest["kind"], **where), json=manifest
        )
        return answer

    def get(self, api_version: str, kind: str, name: str, namespace: str | None = None) -> Object | None:
        """An object, or None if there is none."""
        try:
            answer: Object = self.request("GET", self.path(api_version, kind, name=name, namespace=namespace))
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        return answer

    def list(
        self, api_version: str, kind: str, namespace: str | None = None, *, labels: str = "", fields: str = ""
    ) -> list[Object]:
        """The objects of a kind, in one namespace or in all."""
        params = {"labelSelector": labels, "fieldSelector": fields}
        answer = self.request(
            "GET",
            self.path(api_version, kind, namespace=namespace),
            params={key: value for key, value in params.items() if value},
        )
        items: list[Object] = answer["items"]
        return items

    def patch_status(
        self, api_version: str, kind: str, name: str, status: Object, namespace: str | None = None
    ) -> Object:
        """Merge into an object's status, as the component that owns it would."""
        answer: Object = self.request(
            "PATCH",
            self.path(api_version, kind, name=name, namespace=namespace) + "/status",
            headers={"Content-Type": "application/merge-patch+json"},
            content=json.dumps({"status": status}),
        )
        return answer

    def patch(self, api_version: str, kind: str, name: str, change: Object, namespace: str | None = None) -> Object:
        """Merge a change into an object."""
        answer: Object = self.request(
            "PATCH",
            self.path(api_version, kind, name=name, namespace=namespace),
            headers={"Content-Type": "application/merge-patch+json"},
            content=json.dumps(change),
        )
        return answer

    def delete(
        self, api_version: str, kind: str, name: str, namespace: str | None = None, *, grace: int | None = None
    ) -> None:
        """Ask for an object's deletion; one that is gone is success. ``grace`` is in seconds."""
        body: Object = {"propagationPolicy": "Background"} | ({} if grace is None else {"gracePeriodSeconds": grace})
        try:
            self.request("DELETE", self.path(api_version, kind, name=name, namespace=namespace), json=body)
        except ApiError as error:
            if error.status != 404:
                raise

    def path(self, api_version: str, kind: str, *, name: str | None = None, namespace: str | None = None) -> str:
        """The path of an object, or of the collection, as discovery tells it."""
        plural, namespaced = self._resource(api_version, kind)
        root = "/api/v1" if api_version == "v1" else f"/apis/{api_version}"
        middle = f"/namespaces/{namespace}" if namespaced and namespace else ""
        return f"{root}{middle}/{plural}" + (f"/{name}" if name else "")

    def kinds(self, api_version: str) -> set[str]:
        """The kinds that a group's version serves: none before it is served, though the list of groups may name it."""
        try:
            return {resource["kind"] for resource in self.request("GET", f"/apis/{api_version}")["resources"]}
        except ApiError as error:
            if error.status != 404:
                raise
            return set()

    def _resource(self, api_version: str, kind: str) -> tuple[str, bool]:
        if (api_version, kind) not in self._plurals:
            answer = self.request("GET", "/api/v1" if api_version == "v1" else f"/apis/{api_version}")
            for resource in answer["resources"]:
                if "/" not in resource["name"]:
                    self._plurals[api_version, resource["kind"]] = (resource["name"], resource["namespaced"])
        if (api_version, kind) not in self._plurals:
            raise LookupError(f"The API server has no {kind} in {api_version}")
        return self._plurals[api_version, kind]


def condition(thing: Object | None, kind: str) -> str | None:
    """The status of one of an object's conditions: 'True', 'False', 'Unknown', or None where it has none."""
    conditions: Iterable[Object] = (thing or {}).get("status", {}).get("conditions") or []
    return next((str(entry["status"]) for entry in conditions if entry["type"] == kind), None)


def wait_for(what: str, look: Callable[[], T | None], *, seconds: float, every: float = 0.1) -> T:
    """Ask until the answer is true. Raises TimeoutError naming what did not come, and the last answer."""
    deadline = time.monotonic() + seconds
    while True:
        answer = look()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s. Last seen: {answer!r}")
        time.sleep(every)


def _place(manifest: Object) -> dict[str, Any]:
    return {"name": manifest["metadata"].get("name"), "namespace": manifest["metadata"].get("namespace", "default")}


def _named(entries: list[Object], name: str) -> Object:
    return next(entry for entry in entries if entry["name"] == name)


def _tls(cluster: Object, user: Object) -> ssl.SSLContext:
    with ExitStack() as stack:
        authority = _file(stack, cluster, "certificate-authority")
        certificate, key = _file(stack, user, "client-certificate"), _file(stack, user, "client-key")
        context = tls(certificate_authority=authority, certificate=(certificate, key) if certificate and key else None)
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def tls(*, certificate_authority: Path | None, certificate: tuple[Path, Path] | None) -> ssl.SSLContext:
    """TLS context for a server with a certificate of this CA, as the holder of a certificate and its key."""
    context = ssl.create_default_context(cafile=certificate_authority)
    # Kubernetes' own CAs need not carry what newer Pythons ask for.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if certificate is not None:
        context.load_cert_chain(*certificate)
    return context


def _file(stack: ExitStack, entry: Object, name: str) -> Path | None:
    """A kubeconfig names a file, or holds its content."""
    if name in entry:
        return Path(entry[name])
    if f"{name}-data" not in entry:
        return None
    copy = stack.enter_context(tempfile.NamedTemporaryFile())  # noqa: SIM115  # the stack closes it
    copy.write(base64.b64decode(entry[f"{name}-data"]))
    copy.flush()
    return Path(copy.name)
