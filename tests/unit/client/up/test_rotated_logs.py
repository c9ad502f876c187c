"""Rotating logs that other processes append to: no line is lost or repeated."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rayplane.client.up import rotated_logs
from rayplane.client.up import supervisor as module
from rayplane.client.up.logs import Tail
from rayplane.client.up.rotated_logs import Cut, collapse, partial, rotate, rotated
from rayplane.client.up.supervisor import Supervisor
from rayplane.settings import Home


def can_not(descriptor: int, length: int) -> bool:
    """Behave as a file system that can't remove a file's beginning."""
    return False


@pytest.fixture(params=[collapse, can_not], ids=["cuts", "truncates"])
def cut(request: pytest.FixtureRequest, tmp_path: Path) -> Cut:
    chosen: Cut = request.param
    return chosen


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "gateway.log"


def lines(begin: int, end: int) -> bytes:
    return b"".join(b"line %06d of a log\n" % number for number in range(begin, end))


def whole(log: Path, kept: int = 9) -> bytes:
    parts = [rotated(log, number) for number in range(kept, 0, -1)]
    return b"".join(part.read_bytes() for part in [*parts, log] if part.exists())


def test_a_log_within_its_size_limit_is_not_rotated(log: Path, cut: Cut) -> None:
    log.write_bytes(lines(0, 100))
    assert not rotate(log, most=100_000, kept=3, cut=cut)
    assert [path.name for path in log.parent.iterdir()] == ["gateway.log"]


def test_a_missing_log_is_not_rotated(log: Path, cut: Cut) -> None:
    assert not rotate(log, most=1, kept=3, cut=cut)


def test_the_writer_of_a_rotated_log_goes_on_at_its_end(log: Path, cut: Cut) -> None:
    with log.open("ab", buffering=0) as writer:
        writer.write(lines(0, 5000))
        assert rotate(log, most=70_000, kept=3, cut=cut)
        writer.write(lines(5000, 5100))
    assert log.stat().st_size < 10_000
    assert whole(log) == lines(0, 5100)
    assert stat.S_IMODE(rotated(log).stat().st_mode) == 0o600


def test_the_given_number_of_parts_is_kept_and_the_oldest_is_deleted(log: Path, cut: Cut) -> None:
    for number in range(6):
        with log.open("ab") as writer:
            writer.write(lines(1000 * number, 1000 * (number + 1)))
        rotate(log, most=15_000, kept=3, cut=cut)
    assert sorted(path.name for path in log.parent.iterdir()) == [
        "gateway.log",
        *(f"gateway.log.{n}" for n in (1, 2, 3)),
    ]
    assert lines(0, 6000).endswith(whole(log))
    assert b"line 000000" not in whole(log)


def test_a_process_that_writes_during_rotations_loses_no_line(log: Path) -> None:
    # It waits for a rotation before the log is so large that bytes are left out.
    program = (
        "import os,time\nfor n in range(60000):\n os.write(1, b'line %06d of a log\\n' % n)\n"
        " while os.fstat(1).st_size > 60_000: time.sleep(0.001)"
    )
    with log.open("ab") as output:
        child = subprocess.Popen([sys.executable, "-c", program], stdout=output)
    rotations = 0
    while child.poll() is None:
        rotations += rotate(log, most=50_000, kept=60)
    assert rotations > 1
    assert whole(log, kept=60) == lines(0, 60000)


def test_a_rotation_that_was_interrupted_loses_nothing(log: Path) -> None:
    log.write_bytes(lines(500, 600))  # the log was cut, but its copy not renamed yet
    partial(log).write_bytes(lines(0, 500))
    rotated(log).write_bytes(b"earlier\n")
    assert not rotate(log, most=100_000, kept=3)
    assert whole(log) == b"earlier\n" + lines(0, 600)
    assert not partial(log).exists()


def test_if_the_disk_is_full_the_log_stays_unchanged(log: Path, cut: Cut, monkeypatch: pytest.MonkeyPatch) -> None:
    log.write_bytes(lines(0, 5000))
    rotated(log).write_bytes(b"earlier\n")

    def full(descriptor: int, data: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rotated_logs.os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        rotate(log, most=10_000, kept=3, cut=cut)
    assert log.read_bytes() == lines(0, 5000)
    assert rotated(log).read_bytes() == b"earlier\n"
    assert not partial(log).exists()


def test_of_a_log_with_a_huge_hole_the_end_alone_is_copied(log: Path, cut: Cut) -> None:
    with log.open("ab", buffering=0) as writer:
        os.truncate(log, 2**40)
        writer.write(lines(0, 500))
        assert rotate(log, most=20_000, kept=3, cut=cut)
        writer.write(lines(500, 510))
    assert whole(log).endswith(lines(0, 510))
    assert re.match(rb"\[\d+ bytes were left out here: .*\]\n", rotated(log).read_bytes())
    assert rotated(log).stat().st_size < 2 * 20_000 + 200
    assert log.stat().st_blocks * 512 < 2**20


def test_a_log_that_grows_during_every_copy_is_truncated_in_the_end(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log.write_bytes(lines(0, 1000))
    pread, reads = os.pread, []

    def pread_and_grow(descriptor: int, length: int, offset: int) -> bytes:
        reads.append(offset)
        assert len(reads) < 100, "the copy never ends"
        with log.open("ab") as writer:
            writer.write(lines(0, 100))
        return pread(descriptor, length, offset)

    monkeypatch.setattr(rotated_logs.os, "pread", pread_and_grow)
    assert rotate(log, most=20_000, kept=3, cut=can_not)
    assert log.stat().st_size == 0
    assert rotated(log).stat().st_size <= 2 * 20_000


def test_a_rotation_gives_up_when_its_process_is_stopping(log: Path, cut: Cut) -> None:
    log.write_bytes(lines(0, 1000))
    assert not rotate(log, most=20_000, kept=3, cut=cut, stopping=lambda: True)
    assert [(path.name, path.read_bytes()) for path in log.parent.iterdir()] == [("gateway.log", lines(0, 1000))]


@pytest.mark.parametrize("read_before", [0, 700, 5000])
def test_following_a_log_misses_no_line_of_a_rotation(log: Path, cut: Cut, read_before: int) -> None:
    tail, read_lines = Tail.from_now([log]), list[str]()
    with log.open("ab", buffering=0) as writer:
        writer.write(lines(0, read_before))
        read_lines += tail.read()
        writer.write(lines(read_before, 5000) + b"line 005")
        rotate(log, most=70_000, kept=3, cut=cut)
        writer.write(b"000 of a log\n" + lines(5001, 5010))
        read_lines += tail.read()
        writer.write(lines(5010, 9000))  # larger than before, so that its size does not reveal the rotation
        rotate(log, most=10**9, kept=3, cut=cut)
        read_lines += tail.read()
    assert read_lines == [f"gateway: {line}" for line in lines(0, 9000).decode().splitlines()]


def test_a_log_that_outgrew_its_former_size_since_its_rotation_is_read_from_its_beginning(log: Path, cut: Cut) -> None:
    tail = Tail.from_now([log])
    with log.open("ab", buffering=0) as writer:
        writer.write(lines(0, 1000))
        assert len(list(tail.read())) == 1000
        rotate(log, most=20_000, kept=3, cut=cut)
        writer.write(lines(1000, 9000))
    assert list(tail.read()) == [f"gateway: {line}" for line in lines(1000, 9000).decode().splitlines()]


def test_following_a_log_reads_nothing_during_a_rotation(log: Path) -> None:
    tail = Tail.from_now([log])
    log.write_bytes(lines(0, 10))
    partial(log).touch()
    assert list(tail.read()) == []
    partial(log).unlink()
    assert len(list(tail.read())) == 10


def test_the_supervisor_rotates_every_log_of_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOGS_INTERVAL", 0.01)
    home = Home(tmp_path)
    home.logs.mkdir()
    for name in ("gateway.log", "mlflow.log", "ray-abc.log", "ray-abc.previous.log"):
        (home.logs / name).write_bytes(lines(0, 5000))
    stopping = threading.Event()
    thread = threading.Thread(
        target=Supervisor.load(home, [], log_bytes=10_000, log_files=2)._rotate_logs, args=(stopping,), daemon=True
    )
    thread.start()
    deadline = time.monotonic() + 60
    while not all(rotated(home.logs / name).exists() for name in ("gateway.log", "mlflow.log", "ray-abc.log")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    stopping.set()
    thread.join()
    assert (home.logs / "ray-abc.previous.log").stat().st_size == len(lines(0, 5000))
    assert os.listdir(home.logs).count("ray-abc.previous.log.1") == 0
