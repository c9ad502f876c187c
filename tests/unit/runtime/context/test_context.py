"""The run context: fetched once by the submission id, with retries while the gateway restarts."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from rayplane.errors import InvalidInput, NotFound, Unauthenticated, Unavailable
from rayplane.runtime import context


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "_current", None)


def _serve(gateway: Any, make_context: Any) -> None:
    gateway.routes["POST", "/v1/run-context"] = lambda body: (
        200,
        make_context(submission_id=body["submission_id"]).model_dump(mode="json"),
    )


def test_the_submission_id_is_exchanged_once(gateway: Any, make_context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _serve(gateway, make_context)
    monkeypatch.setenv("RAYPLANE_SUBMISSION_ID", "uid1-2")
    assert context.current().submission_id == "uid1-2"
    assert context.current() is context.current()
    assert len(gateway.requests) == 1


def test_without_a_submission_id_the_cluster_wide_context_is_fetched(gateway: Any, make_context: Any) -> None:
    _serve(gateway, make_context)
    context.current()
    assert gateway.requests == [("POST", "/v1/run-context", {"submission_id": None})]


def test_a_call_is_retried_while_the_gateway_is_down(
    gateway: Any, make_context: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _serve(gateway, make_context)
    monkeypatch.setattr(context, "PATIENCE", 20.0)
    gateway.down = True
    threading.Timer(0.5, lambda: setattr(gateway, "down", False)).start()
    assert context.current().team == "growth"


def test_a_gateway_that_stays_down_is_unavailable_with_a_remedy(gateway: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway.close()
    with pytest.raises(Unavailable, match="rayplane up"):
        context.current()


def test_a_refusal_is_not_retried(gateway: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "PATIENCE", 60.0)
    with pytest.raises(NotFound, match="Look again"):
        context.current()


def test_a_wrong_token_is_unauthenticated(gateway: Any, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("another")
    with pytest.raises(Unauthenticated, match="no such token"):
        context.current()


def test_a_missing_token_file_is_named_in_the_error(gateway: Any, tmp_path: Path) -> None:
    (tmp_path / "token").unlink()
    with pytest.raises(Unauthenticated, match=str(tmp_path / "token")):
        context.current()


def test_outside_a_cluster_the_error_says_how_to_submit_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAYPLANE_GATEWAY_URL", raising=False)
    with pytest.raises(InvalidInput, match="rayplane job submit"):
        context.current()


def test_an_override_applies_to_its_block_and_nests(make_context: Any) -> None:
    with context.override(make_context(team="a")):
        with context.override(make_context(team="b")):
            assert context.current().team == "b"
        assert context.current().team == "a"


def test_an_answer_that_is_no_problem_document_raises_the_error_of_its_status(gateway: Any) -> None:
    gateway.routes["GET", "/v1/odd"] = lambda body: (404, ["odd"])
    with pytest.raises(NotFound, match="answered 404"):
        context.call("GET", "/v1/odd")


def test_a_token_that_is_rotated_between_its_reading_and_the_call_is_read_again(
    gateway: Any, make_context: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _serve(gateway, make_context)
    right, read = (tmp_path / "token").read_text(), context._token
    (tmp_path / "token").write_text("the-former-token")

    def rotated_behind_it() -> str:
        token = read()
        (tmp_path / "token").write_text(right)
        return token

    monkeypatch.setattr(context, "_token", rotated_behind_it)
    assert context.current().team == "growth"
