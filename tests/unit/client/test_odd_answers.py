"""A server that is no gateway, and damaged URLs, tokens and state files: each error says what to do."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from rayplane import errors
from rayplane.client.cli import service
from rayplane.client.sdk import Client
from rayplane.settings import read_secret
from tests.unit.client.command import run

SECRET = "s3cr3t-s3cr3t-s3cr3t"


class Server(http.server.BaseHTTPRequestHandler):
    status: ClassVar[int] = 200
    headers_sent: ClassVar[dict[str, str]] = {}
    body: ClassVar[bytes] = b""
    asked: ClassVar[list[bytes]] = []

    def do_GET(self) -> None:
        self.asked.append(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        self.send_response(self.status)
        for name, value in {**self.headers_sent, "Content-Length": str(len(self.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(self.body)

    do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815  so http.server calls them

    def log_message(self, format: str, *args: object) -> None:
        del format, args


@pytest.fixture
def server(tmp_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    token(tmp_home, SECRET)
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=made.serve_forever, args=(0.02,))
    thread.start()
    url = f"http://127.0.0.1:{made.server_port}"
    monkeypatch.setenv("RAYPLANE_URL", url)
    monkeypatch.setattr(Server, "asked", [])
    yield url
    made.shutdown()
    made.server_close()
    thread.join()


def token(home: Path, text: str | bytes) -> None:
    (home / "token").write_bytes(text if isinstance(text, bytes) else text.encode())
    (home / "token").chmod(0o600)


def answering(patch: pytest.MonkeyPatch, body: str, status: int = 200, **headers: str) -> None:
    patch.setattr(Server, "body", body.encode())
    patch.setattr(Server, "status", status)
    patch.setattr(Server, "headers_sent", headers)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, "<html>Welcome</html>"),
        (200, '{"status": "ok"}'),
        (200, "[1]"),
        (200, ""),
        (307, ""),
        (404, '{"status": "error"}'),
        (500, '{"status": "error", "remedy": 7}'),
        (502, "Bad gateway"),
    ],
)
def test_a_server_that_is_no_gateway_is_named(
    server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], status: int, body: str
) -> None:
    answering(monkeypatch, body, status, Location="https://elsewhere/")
    for argv in (["list"], ["get", "dev"], ["suspend", "dev"], ["delete", "dev"]):
        code, out, err = run(capsys, "cluster", *argv, "--team", "growth")
        assert (code, out) == (8, "")
        assert f"answered {status} and sends on to https://elsewhere/: this does not speak rayplane's API" in err
        assert server in err


def test_answers_without_the_gateways_headers_are_odd_too(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, "{}")
    with Client() as client:
        with pytest.raises(errors.Unavailable, match="does not speak"):
            list(client.jobs.logs("growth", "train"))
        assert client.info() == {}
    answering(monkeypatch, "<html>")
    with Client() as client, pytest.raises(errors.Unavailable, match="does not speak"):
        client.info()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"other\n{SECRET}\n", "holds no token"),
        (f"Bearer {SECRET}", "holds no token"),
        (f"{SECRET}é", "holds no token"),
        (f"{SECRET}\xff".encode("latin-1"), "is no text"),
        ("\n", "holds no token"),
    ],
)
def test_a_damaged_token_is_refused_without_showing_it(
    server: str, tmp_home: Path, capsys: pytest.CaptureFixture[str], text: str | bytes, message: str
) -> None:
    token(tmp_home, text)
    code, out, err = run(capsys, "cluster", "list", "--team", "growth")
    assert (code, out) == (2, "")
    assert message in err
    assert SECRET not in err
    assert Server.asked == []


def test_a_secret_of_two_lines_is_read(tmp_home: Path) -> None:
    token(tmp_home, "user\npassword\n")
    assert read_secret(tmp_home / "token") == "user\npassword"


@pytest.mark.parametrize(
    "url", ["http://x:abc", "http://x:99999", "x:8470", "ftp://x", "http://", "http://x/?a=b", "http://x\n"]
)
def test_a_gateway_url_that_is_none_is_refused(
    tmp_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str
) -> None:
    token(tmp_home, SECRET)
    monkeypatch.setenv("RAYPLANE_URL", url)
    code, _, err = run(capsys, "cluster", "list", "--team", "growth")
    assert (code, "is no gateway's URL" in err) == (2, True)


@pytest.mark.parametrize("text", [b"{", b"[]", b"\xff"])
def test_a_damaged_state_is_named(
    tmp_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: bytes
) -> None:
    monkeypatch.delenv("RAYPLANE_URL", raising=False)
    token(tmp_home, SECRET)
    (tmp_home / "platform.json").write_bytes(text)
    code, _, err = run(capsys, "cluster", "list", "--team", "growth")
    assert (code, "platform.json' is damaged" in err, "rayplane up" in err) == (8, True, True)


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        ({"status": "error"}, errors.RayplaneError),
        ({"status": 404, "remedy": 7, "self": 1, "cls": 2}, errors.NotFound),
        ({"type": 1, "status": None, "detail": ["x"]}, errors.RayplaneError),
    ],
)
def test_any_problem_becomes_an_error(problem: dict[str, object], kind: type[errors.RayplaneError]) -> None:
    assert type(errors.from_problem(problem)) is kind
    assert json.dumps(errors.from_problem(problem).to_problem())


@pytest.fixture
def predicting(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_url", lambda *_, **__: server)


@pytest.mark.parametrize(
    ("status", "body", "code", "message"),
    [
        (200, "fine", 1, "answered 200: fine, which is no JSON"),
        (500, '{"status": "error", "detail": "boom"}', 1, "boom"),
        (503, "[]", 1, "answered 503: []"),
        (307, "", 1, "answered 307"),
    ],
)
def test_an_odd_prediction_is_quoted(
    predicting: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    status: int,
    body: str,
    code: int,
    message: str,
) -> None:
    answering(monkeypatch, body, status)
    ended, out, err = run(capsys, "service", "predict", "delay", "--data", "{}", "--team", "growth")
    assert (ended, out, message in err) == (code, "", True), err


@pytest.mark.parametrize("data", ["NaN", '{"a": [Infinity]}', '"\\ud800"', "[" * 100_000, "@binary", "1" * 5000])
def test_data_that_is_no_json_is_not_sent(
    predicting: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    code, out, err = run(capsys, "service", "predict", "delay", "--data", data, "--team", "growth")
    assert (code, out, Server.asked) == (2, "", [])
    assert "is not JSON" in err or "can't be read: it is no text" in err


@pytest.mark.parametrize("body", ['{"predictions": [0.5]}', "null"])
def test_a_prediction_is_printed_as_json(
    predicting: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], body: str
) -> None:
    answering(monkeypatch, body)
    code, out, _ = run(capsys, "service", "predict", "delay", "--data", "{}", "--team", "growth", "-o", "json")
    assert (code, json.loads(out)) == (0, json.loads(body))
