"""The client of the API server against a local HTTP server: its requests, and the errors for each answer."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from rayplane import processes
from rayplane.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    InvalidSpec,
    NotFound,
    RayplaneError,
    Refused,
    Unavailable,
)
from rayplane.gateway.backends.kubernetes import api as module
from rayplane.gateway.backends.kubernetes.api import Change, Expired, KubeApi
from rayplane.gateway.backends.kubernetes.kinds import NAMESPACE, POD, RAYCLUSTER


class Server(ThreadingHTTPServer):
    """Sends the test's answers and records the requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[tuple[int, Any]] = []
        self.asked: list[tuple[str, str, str, Any]] = []


class Handler(BaseHTTPRequestHandler):
    def answer(self) -> None:
        assert isinstance(self.server, Server)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind = self.headers.get("Content-Type") or ""
        self.server.asked.append((self.command, self.path, kind, json.loads(body) if body else None))
        code, said = self.server.answers.pop(0)
        content = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PATCH = do_DELETE = do_POST = answer  # noqa: N815  the names that the base class calls

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.02,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def api(server: Server, tmp_path: Path) -> Iterator[KubeApi]:
    made = KubeApi(kubeconfig(tmp_path, server.server_address[1]), timeout=5)
    yield made
    made.close()


def kubeconfig(folder: Path, port: int) -> Path:
    path = folder / "kubeconfig"
    config = {
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }
    path.write_text(json.dumps(config))
    return path


def status(message: str, *causes: str, reason: str = "Reason") -> dict[str, Any]:
    return {"message": message, "reason": reason, "details": {"causes": [{"reason": cause} for cause in causes]}}


@pytest.mark.parametrize(
    ("code", "said", "error", "named"),
    [
        (401, status("Unauthorized"), Forbidden, "credentials"),
        (403, status("cannot get"), Forbidden, "may not get pods in namespace 'n'.*gateway-role.yaml"),
        (403, status("exceeded quota: q"), Refused, "exceeded quota"),
        (403, status("is being terminated", "NamespaceTerminating"), Unavailable, "being deleted"),
        (404, status("not found"), NotFound, "Pod 'p' in namespace 'n'"),
        (409, status("modified"), Conflict, "modified"),
        (422, status("spec.x: invalid"), InvalidSpec, "spec.x: invalid"),
        (400, status("bad"), InvalidSpec, "bad"),
        (500, status("failed to create typed patch object (n/p): field not declared"), InvalidSpec, "not declared"),
        (500, status("etcdserver: no leader"), Unavailable, "no leader"),
        (503, b"upstream is away", Unavailable, "upstream is away"),
        (429, status("too many"), Unavailable, "too many"),
        (200, b"<html>", Unavailable, "no JSON"),
    ],
)
def test_every_refusal_becomes_an_error_of_the_platform_with_a_remedy(
    server: Server, api: KubeApi, code: int, said: Any, error: type[RayplaneError], named: str
) -> None:
    server.answers.append((code, said))
    with pytest.raises(error, match=named) as raised:
        api.get(POD, "p", "n")
    assert raised.value.remedy


def test_a_server_that_does_not_answer_is_unavailable(tmp_path: Path) -> None:
    api = KubeApi(kubeconfig(tmp_path, processes.free_port()))
    with pytest.raises(Unavailable, match="did not answer"):
        api.get(POD, "p", "n")


def test_a_missing_kubeconfig_raises_on_the_first_call(tmp_path: Path) -> None:
    api = KubeApi(tmp_path / "none")
    with pytest.raises(InvalidInput, match=r"none.*RAYPLANE_KUBERNETES_KUBECONFIG"):
        api.get(POD, "p", "n")


def test_an_apply_names_the_field_manager_and_forces_only_on_request(server: Server, api: KubeApi) -> None:
    server.answers += [(200, {}), (200, {})]
    manifest = {"metadata": {"name": "dev", "namespace": "n"}, "spec": {"says": "größer 🎉"}}
    api.apply(RAYCLUSTER, manifest)
    api.apply(RAYCLUSTER, manifest, force=False)
    (method, path, kind, body), (_, unforced, _, _) = server.asked
    assert (method, kind, body) == ("PATCH", "application/apply-patch+yaml", manifest)
    assert path == "/apis/ray.io/v1/namespaces/n/rayclusters/dev?fieldManager=rayplane&force=true"
    assert unforced.endswith("force=false")


def test_a_deletion_is_bound_to_the_uid_and_one_already_gone_is_success(server: Server, api: KubeApi) -> None:
    server.answers += [(200, {}), (404, status("gone")), (409, status("another uid"))]
    for _ in range(3):
        api.delete(NAMESPACE, "n", uid="u-1")
    method, path, _, body = server.asked[0]
    assert (method, path) == ("DELETE", "/api/v1/namespaces/n")
    assert body["preconditions"] == {"uid": "u-1"}


def test_a_list_is_read_page_by_page(server: Server, api: KubeApi) -> None:
    first = {"metadata": {"resourceVersion": "7", "continue": "more"}, "items": [{"a": 1}]}
    server.answers += [(200, first), (200, {"metadata": {"resourceVersion": "7"}, "items": [{"a": 2}]})]
    assert api.list(POD, labels="x=y") == ([{"a": 1}, {"a": 2}], "7")
    assert f"limit={module.CHUNK}" in server.asked[0][1]
    assert "continue=more" in server.asked[1][1]
    assert api.calls == {("list", "pods"): 2}


def test_a_watch_yields_a_bookmark_when_it_opens_then_the_changes(server: Server, api: KubeApi) -> None:
    lines = [{"type": "ADDED", "object": {"metadata": {"resourceVersion": "8"}}}]
    server.answers.append((200, b"".join(json.dumps(line).encode() + b"\n" for line in lines)))
    opened, added = api.watch(POD, "7")
    assert opened == Change("BOOKMARK", {"metadata": {"resourceVersion": "7"}})
    assert added.type == "ADDED"
    assert "allowWatchBookmarks=true" in server.asked[0][1]


@pytest.mark.parametrize("said", ["bad\u0085news", "a\u2028b\u2029c\x0bd\x1ce", "plain"])
def test_an_event_of_a_watch_may_contain_other_line_separators(server: Server, api: KubeApi, said: str) -> None:
    event = {"type": "MODIFIED", "object": {"metadata": {"resourceVersion": "8"}, "status": {"message": said}}}
    server.answers.append((200, json.dumps(event, ensure_ascii=False).encode() + b"\n"))
    _, changed = api.watch(POD, "7")
    assert changed.object["status"]["message"] == said


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[KubeApi]:
    """A client of a server that opens one watch and then stays silent."""
    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as pool:

        def serve() -> socket.socket:
            connection, _ = listening.accept()
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            return connection

        serving = pool.submit(serve)
        made = KubeApi(kubeconfig(tmp_path, listening.getsockname()[1]), timeout=5)
        yield made
        made.close()
        serving.result(5).close()


def follow(api: KubeApi, opened: threading.Event) -> None:
    """Watch until it ends, with or without an error."""
    with suppress(Unavailable):
        for _ in api.watch(POD, "7"):
            opened.set()


def test_a_connection_is_closed_only_after_its_reader_has_left(silent: KubeApi) -> None:
    """Otherwise its file descriptor is reused, and a thread that still reads by it takes another connection's bytes."""
    opened, read_at_close = threading.Event(), []
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(follow, silent, opened)
        assert opened.wait(5)
        client = silent._connection()
        close = client.close
        client.close = lambda: (read_at_close.append(len(silent._watches)), close())  # type: ignore[method-assign, assign, return-value]
        silent.close()
        following.result(5)
    assert read_at_close == [0]


def test_a_watch_that_is_opened_after_interrupt_ends_at_once(silent: KubeApi) -> None:
    silent.interrupt()
    opened = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(follow, silent, opened).result(5)
    assert opened.is_set()


def test_a_failing_credential_plug_in_raises_unavailable(tmp_path: Path, server: Server) -> None:
    path = kubeconfig(tmp_path, server.server_address[1])
    config = yaml.safe_load(path.read_text())
    config["users"][0]["user"] = {
        "exec": {"apiVersion": "client.authentication.k8s.io/v1beta1", "command": "/nowhere/to/be/found"}
    }
    path.write_text(yaml.safe_dump(config))
    api = KubeApi(path, timeout=5)
    for ask in (lambda: api.get(POD, "p", "n"), lambda: list(api.watch(POD, "7"))):
        with pytest.raises(Unavailable, match="no credentials"):
            ask()
    api.close()


@pytest.mark.parametrize("text", ["", "- a list", "{broken", "clusters: 3", "current-context: x\nclusters: []"])
def test_an_unreadable_kubeconfig_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(InvalidInput, match="how to reach Kubernetes"):
        KubeApi(path).get(POD, "p", "n")


@pytest.mark.parametrize(
    "answer",
    [
        (410, status("too old")),
        (200, json.dumps({"type": "ERROR", "object": {"code": 410, "message": "old"}}).encode()),
    ],
)
def test_a_watch_from_a_version_that_is_too_old_raises_expired(
    server: Server, api: KubeApi, answer: tuple[int, Any]
) -> None:
    server.answers.append(answer)
    with pytest.raises(Expired):
        list(api.watch(POD, "7"))
