"""Rotate a home's secrets by rewriting their files, which a running gateway notices; the platform may be down."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from rayplane import rotation
from rayplane.client.up import credentials
from rayplane.errors import Conflict, InvalidInput
from rayplane.rotation import moment
from rayplane.settings import Home, read_secret, write_secret

GRACE = 3600.0
"""Seconds for which tokens of the former signing key, and a team's former MLflow user, are still accepted."""


class Secret(StrEnum):
    """Secrets that can be rotated, except the user's token."""

    SIGNING = "signing"
    METRICS = "metrics"
    MLFLOW_ADMIN = "mlflow-admin"
    MLFLOW_TEAMS = "mlflow-teams"
    MLFLOW_FORMS = "mlflow-forms"


class Rotated(BaseModel):
    """Report on a rotated secret, without the secret itself."""

    secret: str
    path: str
    done: str
    """Sentence for the user about the effects, now and later."""


def rotate_token(home: Home, *, clock: Callable[[], float] = time.time) -> Rotated:
    """Replace the local user's token.

    Raises InvalidInput if the home has no platform, Conflict while another process rotates secrets.
    """
    _require_platform(home)
    with rotation.locked(home):
        now = clock()
        token = secrets.token_urlsafe(32)
        rotation.replace_token(home.token, token, history=rotation.history_path(home), at=now)
        return _record_rotation(
            home,
            "token",
            home.token,
            "A running gateway accepts the new token at once, and refuses the old one within a second.",
            {},
            now,
        )


def rotate_secrets(
    home: Home, only: Sequence[Secret] = (), *, grace: float = GRACE, clock: Callable[[], float] = time.time
) -> list[Rotated]:
    """Replace these secrets, or all if none is named. Checks all before it changes any.

    A team whose former MLflow user is still accepted is not rotated again: the former one ends after ``grace`` if that
    is sooner. Raises InvalidInput if the home has no platform, Conflict while another process rotates secrets, or if a
    team's former user is accepted and would not end sooner.
    """
    _require_platform(home)
    wanted = list(dict.fromkeys(only)) or list(Secret)
    with rotation.locked(home):
        now = clock()
        if Secret.MLFLOW_TEAMS in wanted:
            _require_sooner_end(home, now + grace)
        return [done for secret in wanted for done in _ROTATE[secret](home, now, grace)]


def _signing(home: Home, now: float, grace: float) -> list[Rotated]:
    path, key = rotation.ring_path(home), secrets.token_urlsafe(32)
    until = now + grace
    ring = rotation.read_ring(path).rotated(key, until=until) if path.exists() else rotation.Ring(key)
    write_secret(path, ring.text)
    effects = (
        "Clusters, and jobs and services with nodes of their own, get new tokens; what runs goes on. "
        f"Tokens of the former key are accepted until {moment(until)}."
    )
    return [_record_rotation(home, Secret.SIGNING, path, effects, {"accepted_until": moment(until)}, now)]


def _metrics(home: Home, now: float, grace: float) -> list[Rotated]:
    path = rotation.metrics_path(home)
    write_secret(path, secrets.token_urlsafe(32) + "\n")
    effects = "Prometheus reads it at its next scrape; the gateway refuses the old one within a second."
    return [_record_rotation(home, Secret.METRICS, path, effects, {}, now)]


def _mlflow_admin(home: Home, now: float, grace: float) -> list[Rotated]:
    path = credentials.of(home).mlflow_admin
    user = read_secret(path).splitlines()[0]
    coming = rotation.next_path(path)
    # MLflow may have the one that waits already: a gateway that ended before it noted so still needs it.
    if not coming.exists():
        write_secret(coming, f"{user}\n{secrets.token_urlsafe(24)}\n")
    effects = "The gateway gives it to MLflow, at once where both run; until then the old one holds."
    return [_record_rotation(home, Secret.MLFLOW_ADMIN, path, effects, {}, now)]


def _mlflow_teams(home: Home, now: float, grace: float) -> list[Rotated]:
    done = []
    for path in rotation.team_paths(home):
        user = read_secret(path).splitlines()[0]
        new_user = user.removesuffix(_SECOND_USER) if user.endswith(_SECOND_USER) else f"{user}{_SECOND_USER}"
        if rotation.former_path(path).exists():
            done.append(_end_sooner(home, path, now, grace))
            continue
        # The former first: a rotation that is killed in between leaves no next user without it.
        # MLflow has one password per user. With a second user, running jobs use the old one until they have the new.
        rotation.write_former(path, rotation.FormerUser(user, now + grace, grace))
        write_secret(rotation.next_path(path), f"{new_user}\n{secrets.token_urlsafe(32)}\n")
        effects = (
            f"Team '{path.stem}' is MLflow's user '{new_user}' as soon as the gateway has made it; "
            f"'{user}' goes at {moment(now + grace)}."
        )
        detail = {"team": path.stem, "user": new_user, "accepted_until": moment(now + grace)}
        done.append(_record_rotation(home, Secret.MLFLOW_TEAMS, path, effects, detail, now))
    return done


def _end_sooner(home: Home, path: Path, now: float, grace: float) -> Rotated:
    """Bring the end of a team's former user forward: it was rotated before, and the other user is the one in use."""
    former = rotation.read_former(path)
    end = min(former.until, now + grace)
    rotation.write_former(path, rotation.FormerUser(former.name, end, grace))
    effects = f"Team '{path.stem}' was rotated before; its former MLflow user '{former.name}' goes at {moment(end)}."
    detail = {"team": path.stem, "user": former.name, "accepted_until": moment(end)}
    return _record_rotation(home, Secret.MLFLOW_TEAMS, path, effects, detail, now)


def _mlflow_forms(home: Home, now: float, grace: float) -> list[Rotated]:
    path = credentials.of(home).mlflow_key
    write_secret(path, secrets.token_urlsafe(32) + "\n")
    effects = "MLflow takes it when it is started next: rayplane down, then rayplane up."
    return [_record_rotation(home, Secret.MLFLOW_FORMS, path, effects, {}, now)]


_SECOND_USER = ".2"
"""Suffix of the second of a team's two alternating users. No workspace's name has a dot."""
_ROTATE: dict[Secret, Callable[[Home, float, float], list[Rotated]]] = {
    Secret.SIGNING: _signing,
    Secret.METRICS: _metrics,
    Secret.MLFLOW_ADMIN: _mlflow_admin,
    Secret.MLFLOW_TEAMS: _mlflow_teams,
    Secret.MLFLOW_FORMS: _mlflow_forms,
}


def _require_platform(home: Home) -> None:
    if not home.token.exists():
        raise InvalidInput(
            f"'{home.path}' is the home of no platform: it has no token.",
            remedy="Name the home by RAYPLANE_HOME, or run 'rayplane up'.",
        )
    credentials.ensure(home)


def _require_sooner_end(home: Home, end: float) -> None:
    for path in rotation.team_paths(home):
        if rotation.former_path(path).exists():
            until = rotation.read_former(path).until
            if until <= end:
                raise Conflict(
                    f"The MLflow user of team '{path.stem}' was rotated already, and its former one is there until "
                    f"{moment(until)}.",
                    remedy="Wait until then, end it sooner by a shorter --grace, or name the others by --only.",
                )


def _record_rotation(home: Home, secret: str, path: Path, done: str, detail: dict[str, Any], now: float) -> Rotated:
    rotation.write_note(home, str(secret), detail, at=now)
    return Rotated(secret=str(secret), path=str(path), done=done)
