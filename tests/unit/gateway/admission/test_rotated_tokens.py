"""Rotated secrets of a home: which tokens a gateway accepts, from when, and the errors for the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayplane import rotation
from rayplane.gateway.admission import tokens
from rayplane.gateway.admission.roles import Principal
from rayplane.gateway.admission.tokens import LOOK_EVERY, HomeSigner
from rayplane.settings import Home, read_secret, write_secret

ADMIN = Principal(name="local", role="admin")


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path)
    tokens.load(made)
    return made


@pytest.fixture
def signer(home: Home, clock: Clock) -> HomeSigner:
    return HomeSigner.read(home, clock=clock, monotonic=clock)


def rotate_key(home: Home, until: float) -> None:
    path = rotation.ring_path(home)
    write_secret(path, rotation.read_ring(path).rotated("another-key-of-some-length", until=until).text)


def rotate_token(home: Home, clock: Clock) -> str:
    old = read_secret(home.token)
    rotation.replace_token(home.token, "another-token-of-some-length", history=rotation.history_path(home), at=clock())
    return old


def test_a_new_token_is_accepted_at_once_and_the_old_one_refused_within_a_second(
    home: Home, signer: HomeSigner, clock: Clock
) -> None:
    old = rotate_token(home, clock)
    assert signer.verify(old) == ADMIN  # the signer has not looked at the files since
    clock.now += LOOK_EVERY
    assert signer.verify(old) is None
    rotation.replace_token(home.token, "a-third-token-of-some-length", history=rotation.history_path(home), at=clock())
    assert signer.verify("a-third-token-of-some-length") == ADMIN  # though the files were looked at just now
    assert signer.verify("another-token-of-some-length") is None


def test_the_error_for_a_replaced_token_says_when_it_was_replaced_and_where_the_new_one_is(
    home: Home, signer: HomeSigner, clock: Clock
) -> None:
    old = rotate_token(home, clock)
    clock.now += LOOK_EVERY
    error = signer.refusal(old)
    assert error.fields["reason"] == "rotated-token"
    assert "2023-11-14T22:13:20+00:00" in error.detail
    assert str(home.token) in str(error.remedy)
    assert "another-token" not in str(error)
    assert signer.refusal("a-strangers-token").fields["reason"] == "unknown-token"


def test_tokens_of_the_former_key_are_accepted_until_their_grace_ends(
    home: Home, signer: HomeSigner, clock: Clock
) -> None:
    old = signer.cluster_token("growth", "u1")
    rotate_key(home, until=clock.now + 600)
    clock.now += LOOK_EVERY
    new = signer.cluster_token("growth", "u1")
    assert new != old
    assert signer.verify(old) == signer.verify(new) != None  # noqa: E711  both are the cluster's
    ends = signer.grace_ends()
    assert ends is not None
    assert ends.timestamp() == 1_700_000_600
    clock.now += 600
    assert signer.verify(old) is None
    assert signer.verify(new) is not None
    assert signer.grace_ends() is None
    assert signer.refusal(old).fields["reason"] == "rotated-token"
    assert "suspend and resume" in str(signer.refusal(old))


def test_another_gateway_on_the_home_accepts_a_token_of_a_key_that_it_has_not_read_yet(
    home: Home, signer: HomeSigner, clock: Clock
) -> None:
    other = HomeSigner.read(home, clock=clock, monotonic=clock)
    rotate_key(home, until=clock.now + 600)
    clock.now += LOOK_EVERY / 2
    new = HomeSigner.read(home, clock=clock, monotonic=clock).cluster_token("growth", "u1")
    assert other.verify(new) is not None
    assert other.version == HomeSigner.read(home).version != ""


def test_the_version_changes_with_the_key_and_does_not_reveal_it(home: Home, signer: HomeSigner, clock: Clock) -> None:
    before = signer.version
    rotate_key(home, until=clock.now)
    clock.now += LOOK_EVERY
    assert signer.version != before
    assert signer.version not in rotation.ring_path(home).read_text()


def test_the_metrics_token_is_replaced_without_a_restart(home: Home, signer: HomeSigner, clock: Clock) -> None:
    old = read_secret(rotation.metrics_path(home))
    write_secret(rotation.metrics_path(home), "another-metrics-token\n")
    assert signer.verify("another-metrics-token") == Principal(name="prometheus", role="metrics")
    assert signer.verify(old) is None


@pytest.mark.parametrize("damage", ["", "short", "a-key-of-some-length-\nno-time"])
def test_a_damaged_file_leaves_the_former_secrets_in_use_and_is_logged_once(
    home: Home, signer: HomeSigner, clock: Clock, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    token, cluster = read_secret(home.token), signer.cluster_token("growth", "u1")
    write_secret(rotation.ring_path(home), damage)
    for _ in range(2):
        clock.now += LOOK_EVERY
        assert signer.verify(token) == ADMIN
        assert signer.verify(cluster) is not None
    assert "can't be read anew" in caplog.text
    assert sum("the same error" not in record.getMessage() for record in caplog.records) == 1


def test_a_removed_file_leaves_the_former_secrets_in_use(home: Home, signer: HomeSigner, clock: Clock) -> None:
    token = read_secret(home.token)
    home.token.unlink()
    clock.now += LOOK_EVERY
    assert signer.verify(token) == ADMIN
