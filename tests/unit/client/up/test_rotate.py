"""Rotating the secrets of a home whose platform is down: only files change, each atomically."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from rayplane import rotation
from rayplane.client.up import credentials, rotate
from rayplane.client.up.rotate import Secret
from rayplane.errors import Conflict, InvalidInput
from rayplane.settings import Home, read_secret, write_secret
from tests.unit.client.command import run

NOW = 1_700_000_000.0


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    credentials.ensure(made)
    write_secret(rotation.ring_path(made), "the-first-signing-key-of-this-home\n")
    write_secret(made.secrets / "teams" / "growth.mlflow", "rayplane-growth\nfirst-password\n")
    return made


def everything(home: Home) -> dict[str, str]:
    return {str(p.relative_to(home.path)): p.read_text() for p in sorted(home.path.rglob("*")) if p.is_file()}


def test_the_users_token_is_replaced_and_the_old_one_is_remembered(home: Home) -> None:
    before = read_secret(home.token)
    done = rotate.rotate_token(home, clock=lambda: NOW)
    assert read_secret(home.token) != before
    assert stat.S_IMODE(home.token.stat().st_mode) == 0o600
    assert rotation.read_replaced(rotation.history_path(home))[0].is_of(before)
    assert (done.secret, done.path) == ("token", str(home.token))
    assert [note.secret for _, note in rotation.read_notes(home)] == ["token"]


def test_all_secrets_are_rotated_and_none_is_in_a_note_or_an_answer(home: Home) -> None:
    before = everything(home)
    done = rotate.rotate_secrets(home, clock=lambda: NOW)
    assert [item.secret for item in done] == [str(secret) for secret in Secret]
    texts = [*before.values(), *everything(home).values()]
    secrets_ = {line.split(" ")[0] for text in texts for line in text.splitlines() if len(line.split(" ")[0]) > 25}
    published = [json.dumps(note.detail) for _, note in rotation.read_notes(home)] + [
        item.model_dump_json() for item in done
    ]
    assert len(published) == 2 * len(Secret)
    assert not [secret for secret in secrets_ if any(secret in text for text in published)]
    ring = rotation.read_ring(rotation.ring_path(home))
    assert ring.former[0].key == "the-first-signing-key-of-this-home"
    assert ring.former[0].until == NOW + rotate.GRACE


def test_one_secret_is_rotated_and_the_others_stay(home: Home) -> None:
    before = everything(home)
    rotate.rotate_secrets(home, [Secret.METRICS], clock=lambda: NOW)
    after = everything(home)
    assert {path for path in before if after[path] != before[path]} == {"secrets/metrics.token"}


def test_a_team_gets_a_second_mlflow_user_while_its_jobs_use_the_first(home: Home) -> None:
    path = home.secrets / "teams" / "growth.mlflow"
    rotate.rotate_secrets(home, [Secret.MLFLOW_TEAMS], grace=60, clock=lambda: NOW)
    assert read_secret(path).splitlines() == ["rayplane-growth", "first-password"]
    assert read_secret(rotation.next_path(path)).splitlines()[0] == "rayplane-growth.2"
    assert read_secret(rotation.former_path(path)).splitlines()[0] == "rayplane-growth"


def test_a_team_whose_former_user_is_still_accepted_can_not_be_rotated_and_nothing_changes(home: Home) -> None:
    rotate.rotate_secrets(home, [Secret.MLFLOW_TEAMS], clock=lambda: NOW)
    before = everything(home)
    with pytest.raises(Conflict, match="growth"):
        rotate.rotate_secrets(home, clock=lambda: NOW)
    assert everything(home) == before


def test_a_former_user_of_a_team_ends_sooner_by_a_shorter_grace_and_the_one_in_use_stays(home: Home) -> None:
    path = home.secrets / "teams" / "growth.mlflow"
    rotate.rotate_secrets(home, [Secret.MLFLOW_TEAMS], grace=3600, clock=lambda: NOW)
    coming = read_secret(rotation.next_path(path))
    (done,) = rotate.rotate_secrets(home, [Secret.MLFLOW_TEAMS], grace=0, clock=lambda: NOW + 60)
    assert "was rotated before" in done.done
    user, until, grace = read_secret(rotation.former_path(path)).splitlines()
    assert (user, float(until), float(grace)) == ("rayplane-growth", NOW + 60, 0)
    assert read_secret(rotation.next_path(path)) == coming


def test_a_second_rotation_keeps_the_admins_password_that_mlflow_may_have_already(home: Home) -> None:
    path = home.secrets / "mlflow-admin"
    rotate.rotate_secrets(home, [Secret.MLFLOW_ADMIN], clock=lambda: NOW)
    coming = read_secret(rotation.next_path(path))
    rotate.rotate_secrets(home, [Secret.MLFLOW_ADMIN], clock=lambda: NOW + 60)
    assert read_secret(rotation.next_path(path)) == coming


def test_a_home_without_a_platform_is_refused_and_stays_empty(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="home of no platform"):
        rotate.rotate_token(Home(tmp_path / "empty"))
    with pytest.raises(InvalidInput, match="home of no platform"):
        rotate.rotate_secrets(Home(tmp_path / "empty"))
    assert not (tmp_path / "empty").exists()


def test_the_commands_print_what_was_done_and_no_secret(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAYPLANE_HOME", str(home.path))
    code, out, stderr = run(capsys, "token", "rotate")
    assert code == 0
    assert out.splitlines()[0].split() == ["SECRET", "FILE", "DONE"]
    assert read_secret(home.token) not in out + stderr
    code, out, _ = run(
        capsys, "secrets", "rotate", "--only", "signing", "--only", "metrics", "--grace", "10m", "-o", "json"
    )
    assert code == 0
    assert [item["secret"] for item in json.loads(out)] == ["signing", "metrics"]
    assert rotation.read_ring(rotation.ring_path(home)).key not in out
    for wrong in (["--only", "sining"], ["--grace", "soon"]):
        code, _, stderr = run(capsys, "secrets", "rotate", *wrong)
        assert code == 2
        assert "Error" in stderr
