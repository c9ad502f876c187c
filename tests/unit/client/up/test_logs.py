"""Following logs: complete lines, files that are created or truncated later."""

from __future__ import annotations

import io
from pathlib import Path

from rayplane.client.up.logs import Tail, printed


def test_only_complete_lines_added_from_now_on_are_read(tmp_path: Path) -> None:
    log = tmp_path / "gateway.log"
    log.write_text("earlier\n")
    tail = Tail.from_now([log])
    assert list(tail.read()) == []
    with log.open("a") as file:
        file.write("one\ntw")
    assert list(tail.read()) == ["gateway: one"]
    with log.open("a") as file:
        file.write("o\n")
    assert list(tail.read()) == ["gateway: two"]
    assert list(tail.read()) == []


def test_a_log_may_be_created_or_truncated_later(tmp_path: Path) -> None:
    log = tmp_path / "mlflow.log"
    tail = Tail.from_now([log])
    assert list(tail.read()) == []
    log.write_text("the first, which is long\n")
    assert list(tail.read()) == ["mlflow: the first, which is long"]
    log.write_text("anew\n")
    assert list(tail.read()) == ["mlflow: anew"]


def test_lines_are_printed_to_the_given_stream(tmp_path: Path) -> None:
    log, to = tmp_path / "gateway.log", io.StringIO()
    with printed([log], to=to, every=60):
        log.write_text("one\n")
    assert to.getvalue() == "gateway: one\n"
