"""Take in rotated secrets, in a thread of the leader: audit them, set MLflow's new admin password, and have the
loop look at everything that has a token of the platform."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from rayplane import rotation
from rayplane.errors import RayplaneError, Unauthenticated
from rayplane.gateway.admission.tokens import USER
from rayplane.gateway.mlflow_rest import MlflowRest
from rayplane.gateway.usecases.platform import Platform
from rayplane.repeats import Repeats
from rayplane.rotation import Note, moment
from rayplane.settings import read_secret, write_secret

log = logging.getLogger(__name__)

EVERY = 1.0
"""Seconds between two looks at the files; one looks up three directory entries."""
ACTION = "rotate"
_NEWEST = 500
"""Rows of the audit log searched for a note, in case a gateway died between writing the row and deleting the file."""


class Rotations:
    """The thread that takes in rotations; started and stopped with the leadership."""

    def __init__(
        self, platform: Platform, mlflow: MlflowRest | None, *, everything: Callable[[], None], version: tuple[str, ...]
    ) -> None:
        """``everything`` has the loop look at all objects, which renews their tokens, now of ``version``."""
        self._platform = platform
        self._mlflow = mlflow
        self._everything = everything
        self._home = platform.settings.home_paths
        self._errors = Repeats(log)
        self._version = version
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @classmethod
    def from_now(
        cls, platform: Platform, mlflow: MlflowRest | None, *, everything: Callable[[], None] = lambda: None
    ) -> Rotations:
        """Look at the secrets' files, and take in what is rotated from now on."""
        return cls(platform, mlflow, everything=everything, version=_newest(platform))

    def start(self) -> None:
        """Begin to lead."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(self._stopping,), name="rotations", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End to lead: wait until a running look has ended."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def look(self) -> None:
        """Take in pending rotations. Raises Unavailable if the store or MLflow does not answer; the rest waits."""
        version, notes = _newest(self._platform), rotation.read_notes(self._home)
        if version != self._version or notes:
            self._everything()
            self._version = version
        for path, note in notes:
            self._audit(note)
            path.unlink(missing_ok=True)
        if self._mlflow is not None:
            self._tell_mlflow(self._mlflow)

    def _run(self, stopping: threading.Event) -> None:
        while not stopping.wait(EVERY):
            try:
                self.look()
                self._errors.works("rotations")
            except Exception as exc:  # noqa: BLE001  the next look follows in any case
                unexpected = not isinstance(exc, RayplaneError)
                self._errors.failed("rotations", exc, "rotated secrets can't be taken in", traceback=unexpected)

    def _audit(self, note: Note) -> None:
        store, team = self._platform.store, str(note.detail.get("team") or "")
        with store.transaction():
            known = store.audit_log(None, action=ACTION, limit=_NEWEST).items
            if any(row["detail"].get("id") == note.id for row in known):
                return
            detail = {**note.detail, "id": note.id, "at": moment(note.at)}
            # Only the local user can write into the home, so the rotation is theirs.
            store.audit(USER, ACTION, kind="Secret", team=team, name=note.secret, detail=detail)
        log.info("a secret was rotated: %s", note.secret, extra={"note": note.id})

    def _tell_mlflow(self, mlflow: MlflowRest) -> None:
        """Set the next password of MLflow's admin, then replace the file of the old one."""
        path = self._platform.settings.mlflow_admin_path
        if path is None or not rotation.next_path(Path(path)).exists():
            return
        path, coming = Path(path), rotation.next_path(Path(path))
        user, password = read_secret(coming).splitlines()[:2]
        try:
            mlflow.change_password(user, password)
        except Unauthenticated:
            mlflow.use(user, password)  # an earlier gateway changed the password and died before it replaced the file
            mlflow.require_admin()
        write_secret(path, f"{user}\n{password}\n")
        coming.unlink(missing_ok=True)
        mlflow.use(user, password)
        log.info("MLflow's admin has another password")


def _newest(platform: Platform) -> tuple[str, ...]:
    """A version that changes with the secrets that the platform gives to running processes."""
    paths = rotation.team_paths(platform.settings.home_paths)
    return (platform.signer.version, *(f"{path.name} {path.stat().st_mtime_ns}" for path in paths))
