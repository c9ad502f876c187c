"""Tokens: each identifies its principal, and none can be made without the key."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.errors import InvalidInput
from rayplane.gateway.admission import tokens
from rayplane.gateway.admission.roles import Principal
from rayplane.settings import Home

SIGNER = tokens.TokenSigner(key=b"k" * 32, user_token="user-token", metrics_token="metrics-token")


def test_each_token_identifies_its_principal() -> None:
    assert SIGNER.verify("user-token") == Principal(name="local", role="admin")
    assert SIGNER.verify("metrics-token") == Principal(name="prometheus", role="metrics")
    cluster = SIGNER.verify(SIGNER.cluster_token("growth", "u1"))
    assert cluster == Principal(name="cluster:u1", role="cluster", team="growth", cluster_uid="u1")


def test_a_clusters_token_is_the_same_each_time_and_differs_between_clusters() -> None:
    assert SIGNER.cluster_token("growth", "u1") == SIGNER.cluster_token("growth", "u1")
    made = {SIGNER.cluster_token(team, uid) for team in ("growth", "ads") for uid in ("u1", "u2")}
    assert len(made) == 4


def test_a_token_of_another_key_is_not_valid() -> None:
    other = tokens.TokenSigner(key=b"x" * 32, user_token="a", metrics_token="b")
    assert SIGNER.verify(other.cluster_token("growth", "u1")) is None


@given(st.data())
def test_a_token_with_one_character_changed_is_not_valid(data: st.DataObject) -> None:
    token = SIGNER.cluster_token("growth", "u1")
    at = data.draw(st.integers(0, len(token) - 1))
    put = data.draw(st.characters())
    changed = token[:at] + put + token[at + 1 :]
    if changed != token:
        assert SIGNER.verify(changed) is None


def test_the_team_in_a_token_can_not_be_exchanged() -> None:
    mine, theirs = (SIGNER.cluster_token(team, "u1").split(".") for team in ("growth", "ads"))
    assert SIGNER.verify(f"{mine[0]}.{theirs[1]}.{mine[2]}") is None


@given(st.text())
def test_any_other_text_is_not_a_valid_token(text: str) -> None:
    if text not in ("user-token", "metrics-token"):
        assert SIGNER.verify(text) is None


@pytest.mark.parametrize("token", ["", "rpc1", "rpc1.", "rpc1..", "rpc1.W10.", "User-token"])
def test_a_text_that_resembles_a_token_is_not_valid(token: str) -> None:
    assert SIGNER.verify(token) is None


def test_the_first_start_creates_the_files_and_the_next_reads_them(tmp_path: Path) -> None:
    home = Home(tmp_path)
    first, second = tokens.load(home), tokens.load(home)
    paths = [home.token, home.secrets / "metrics.token", home.secrets / "signing.key"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in paths] == [0o600] * 3
    assert stat.S_IMODE(home.secrets.stat().st_mode) == 0o700
    assert second.verify(first.cluster_token("growth", "u1")) is not None
    assert second.verify(home.token.read_text().strip()) == Principal(name="local", role="admin")
    assert len({path.read_text() for path in paths}) == 3


def test_a_secret_that_others_may_read_is_refused(tmp_path: Path) -> None:
    home = Home(tmp_path)
    tokens.load(home)
    home.token.chmod(0o644)
    with pytest.raises(InvalidInput, match="chmod 600"):
        tokens.load(home)


def test_an_empty_secret_is_refused(tmp_path: Path) -> None:
    home = Home(tmp_path)
    tokens.load(home)
    (home.secrets / "signing.key").write_text("\n")
    with pytest.raises(InvalidInput, match="too few to be safe"):
        tokens.load(home)
