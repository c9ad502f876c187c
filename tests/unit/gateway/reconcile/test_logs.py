"""Log followers alone: a Ray that breaks off, is silent or is replaced; attempts that share one file."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rayplane.errors import RayplaneError, Unavailable
from rayplane.gateway.reconcile import logs
from rayplane.gateway.reconcile.logs import LogFollowers, header
from rayplane.storage.root import Storage, open_root

PATH = "alpha/jobs/uid/driver.log"


class Ray:
    """Fake Ray with one log, whose transfer a test can break."""

    def __init__(self, log: bytes = b"") -> None:
        self.log = log
        self.looks = 0
        self.pieces: Callable[[bytes], Iterator[bytes]] = lambda rest: iter((rest,))

    def log_from(self, submission_id: str, offset: int) -> Iterator[bytes]:
        self.looks += 1
        return self.pieces(self.log[offset:])


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_root(f"file://{tmp_path}/root")


@pytest.fixture
def followers(storage: Storage) -> Iterator[LogFollowers]:
    made = LogFollowers(storage)
    yield made
    made.stop()


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def kept(storage: Storage) -> bytes:
    return storage.read(PATH) if storage.exists(PATH) else b""


def complete(followers: LogFollowers, ray: Any, number: int = 1) -> None:
    until(lambda: followers.complete(ray, path=PATH, number=number, submission_id=f"uid-{number}"))


def test_the_last_bytes_before_a_broken_connection_are_kept(followers: LogFollowers, storage: Storage) -> None:
    ray: Any = Ray(b"the traceback")

    def breaks(rest: bytes) -> Iterator[bytes]:
        yield rest
        raise Unavailable("the connection broke")

    ray.pieces = breaks
    followers.follow(ray, path=PATH, number=1, submission_id="uid-1")
    until(lambda: kept(storage) == b"the traceback")
    until(lambda: followers.problem("uid-1") == "the connection broke")
    followers.abandon("uid-1")
    assert kept(storage) == b"the traceback"


def test_abandoning_the_log_of_a_silent_ray_does_not_block_and_nothing_is_written_after(
    followers: LogFollowers, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_LEAVE", 0.2)
    asked, silent = threading.Event(), threading.Event()
    ray: Any = Ray(b"late")

    def waits(rest: bytes) -> Iterator[bytes]:
        asked.set()
        silent.wait(60)
        yield rest

    ray.pieces = waits
    followers.follow(ray, path=PATH, number=1, submission_id="uid-1")
    assert asked.wait(30)
    thread = next(t for t in threading.enumerate() if t.name == "log-uid-1")
    followers.abandon("uid-1")
    assert thread.is_alive(), "it was not waited for"
    silent.set()
    thread.join(30)
    assert not thread.is_alive()
    assert kept(storage) == b""


def test_a_replaced_client_is_used_from_then_on(followers: LogFollowers, storage: Storage) -> None:
    refused: Any = Ray()

    def refuses(rest: bytes) -> Iterator[bytes]:
        raise RayplaneError("the token is refused")

    refused.pieces = refuses
    followers.follow(refused, path=PATH, number=1, submission_id="uid-1")
    until(lambda: followers.problem("uid-1") == "the token is refused")
    ray: Any = Ray(b"all of it")
    followers.follow(ray, path=PATH, number=1, submission_id="uid-1")
    until(lambda: kept(storage) == b"all of it")
    complete(followers, ray)
    assert followers.problem("uid-1") == ""


def test_a_second_attempt_has_its_own_part_of_the_file_also_after_a_restart(
    followers: LogFollowers, storage: Storage
) -> None:
    complete(followers, Ray(b"first"))
    second: Any = Ray(b"line\r\xff\n")
    followers.follow(second, path=PATH, number=2, submission_id="uid-2")
    expected = b"first\n" + header(2, "uid-2").encode() + b"line\r\xff\n"
    until(lambda: kept(storage) == expected)
    followers.stop()
    restarted = LogFollowers(storage)
    second.log += b"more\n"
    complete(restarted, second, 2)
    restarted.stop()
    assert kept(storage) == expected + b"more\n"


def test_a_log_that_arrives_slowly_after_its_end_is_reported_as_arriving(
    followers: LogFollowers, storage: Storage
) -> None:
    ray: Any = Ray(b"the whole log")
    go_on = threading.Event()

    def whole(rest: bytes) -> Iterator[bytes]:
        while not go_on.wait(0.02):
            yield b""  # the part that is kept already
        yield rest

    ray.pieces = whole
    assert not followers.complete(ray, path=PATH, number=1, submission_id="uid-1")
    until(lambda: followers.comes("uid-1", within=timedelta(seconds=60)))
    go_on.set()
    complete(followers, ray)
    assert kept(storage) == b"the whole log"
