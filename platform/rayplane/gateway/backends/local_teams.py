"""Places of teams on this host, where each has a Unix user: its number, its folder, its clusters' folders."""

from __future__ import annotations

import errno
import fcntl
import grp
import hashlib
import logging
import os
import pwd
import stat
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from rayplane import local_users
from rayplane.errors import Unavailable
from rayplane.gateway.backends.base import TeamRef
from rayplane.gateway.backends.local_head import Folders
from rayplane.local_users import Numbered, Numbers
from rayplane.settings import GatewaySettings, write_secret
from rayplane.storage import layout

log = logging.getLogger(__name__)

_PACKAGES, _JOBS = (Path(path).name for path in (layout.packages(""), layout.jobs("")))
_PLATFORM_FILES = tuple(Path(path).name for path in (layout.job_log("", ""), layout.job_record("", "")))
"""Names of the files that the platform writes into a job's folder."""
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class LocalTeams:
    """The teams' users of one home. Thread-safe, and safe with another process on the same home."""

    def __init__(self, settings: GatewaySettings) -> None:
        root = local_users.storage_folder(settings)
        assert root is not None  # local_users.require checked that
        self._root = root
        self._home = settings.home_paths
        self._first, self._last = settings.local_user_ids

    def ensure(self, team: TeamRef) -> None:
        """Give the team a user number and its folder. Raises Unavailable if no number is left."""
        with self._locked() as numbers:
            for uid, known in numbers.teams.items():
                known.gone = known.gone or (known.team == team.name and uid != team.uid)
            if team.uid not in numbers.teams:
                number = self._choose(team, {known.number for known in numbers.teams.values()})
                numbers.teams[team.uid] = Numbered(team=team.name, number=number)
            mine = numbers.teams[team.uid]
            mine.gone = False
            # Of this name alone: in a home restored beside a kept root, a number may be another team's than there.
            former = {
                known.number: uid for uid, known in numbers.teams.items() if uid != team.uid and known.team == team.name
            }
        self._give_folder(team, mine.number, former)

    def delete(self, team: TeamRef) -> int | None:
        """Retire the team's number and return it. No other team ever gets it, and the team's files stay in place."""
        with self._locked() as numbers:
            known = numbers.teams.get(team.uid)
            if known is None:
                return None
            known.gone = True
            return known.number

    def number(self, team: str) -> int | None:
        """The number of the current team of that name; None if it has none."""
        numbers = [
            known.number
            for known in local_users.read(self._home).teams.values()
            if known.team == team and not known.gone
        ]
        return numbers[0] if numbers else None

    def _give_folder(self, team: TeamRef, number: int, former: Mapping[int, str]) -> None:
        """Create the team's folder, or give it an existing one; that of an earlier team is moved aside."""
        folder = self._root / team.name
        self._root.mkdir(parents=True, exist_ok=True, mode=0o711)
        with suppress(FileNotFoundError):
            folder_stat = folder.stat(follow_symlinks=False)
            if local_users.is_given(folder_stat) and folder_stat.st_gid == number:
                return
            if folder_stat.st_gid in former:
                aside = self._root / f"{team.name}.{former[folder_stat.st_gid]}"
                folder.rename(aside)
                os.chown(aside, 0, 0)
                aside.chmod(0o700)
                log.warning("the files of an earlier team %s are in %s now", team, aside)
        folder.mkdir(mode=0o700, exist_ok=True)
        known = sorted(entry.name for entry in os.scandir(folder))
        for name in (_PACKAGES, _JOBS):
            (folder / name).mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(folder, _OPEN | os.O_DIRECTORY)
        try:
            for name in os.listdir(descriptor):
                _give(descriptor, (name,), number)
            # Last: this owner and mode show that everything in the folder is done.
            os.fchown(descriptor, 0, number)
            os.fchmod(descriptor, local_users.TEAM_FOLDER)
        finally:
            os.close(descriptor)
        if known:
            log.info("%s of team %s belong to user %d now", ", ".join(known), team, number)

    def _choose(self, team: TeamRef, taken: set[int]) -> int:
        size = self._last - self._first + 1
        start = int(hashlib.sha256(f"{self._home.local_users}/{team.uid}".encode()).hexdigest(), 16)
        for step in range(size):
            number = self._first + (start + step) % size
            if number not in taken and not _is_named(number):
                return number
        raise Unavailable(
            f"Team '{team}' gets no Unix user: other teams have or had all numbers from {self._first} to {self._last}.",
            remedy="Widen RAYPLANE_LOCAL_USER_IDS.",
        )

    @contextmanager
    def _locked(self) -> Iterator[Numbers]:
        with self._home.local_users.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            numbers = local_users.read(self._home)
            before = numbers.model_dump_json(indent=1)
            yield numbers
            after = numbers.model_dump_json(indent=1)
            if after != before:
                write_secret(self._home.local_users, after)


def make_folders(folders: Folders, secrets: Mapping[str, str]) -> None:
    """Create a cluster's own folders, owned by its user: for Ray, warm processes, HOME, TMPDIR and secrets.

    Until all are there only root can enter.
    """
    assert folders.user is not None
    for folder in (folders.top.parent, folders.top):
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        folder_stat = folder.stat(follow_symlinks=False)
        if not stat.S_ISDIR(folder_stat.st_mode) or folder_stat.st_uid != os.geteuid():
            raise Unavailable(
                f"'{folder}' is not the platform's own folder: it is user {folder_stat.st_uid}'s.",
                remedy="Remove it; 'rayplane down' and 'rayplane up' begin anew.",
            )
    folders.top.parent.chmod(0o711)
    for folder in (folders.ray, folders.warm, folders.home, folders.temporary, folders.secrets):
        folder.mkdir(mode=0o700)
        os.chown(folder, folders.user, folders.user)
    for name, text in secrets.items():
        write_secret(folders.secrets / name, text)
        os.chown(folders.secrets / name, folders.user, folders.user)
    os.chown(folders.top, folders.user, folders.user)


def renew_secrets(folders: Folders, secrets: Mapping[str, str]) -> None:
    """Replace a user's secret files whose text changed. Missing ones stay missing.

    The user owns the folder and may put links in it: it is opened without following links, and each file is created
    anew. Raises Unavailable if that fails.
    """
    assert folders.user is not None
    opened = None
    try:
        opened = os.open(folders.secrets, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        for name, text in secrets.items():
            if _is_there(name, opened):  # not by listing the folder, which its user may have filled
                _renew(opened, name, text, folders.user)
    except OSError as exc:
        raise Unavailable(
            f"The secrets in '{folders.secrets}' can't be renewed: {exc.strerror}.",
            remedy="If it goes on, suspend the cluster and resume it.",
        ) from exc
    finally:
        if opened is not None:
            os.close(opened)


def _is_there(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _renew(folder: int, name: str, text: str, user: int) -> None:
    """Replace a file of an open folder atomically, unless it has the text already."""
    # What can't be read, such as a link, is replaced.
    with suppress(OSError), os.fdopen(os.open(name, _OPEN, dir_fd=folder), "rb") as file:
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode) and file.read(2 * len(text.encode()) + 1) == text.encode():
            return
    partial = f".{name}.{uuid.uuid4().hex}"
    with os.fdopen(
        os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder), "wb"
    ) as file:
        file.write(text.encode())
        os.fchown(file.fileno(), user, user)
    os.rename(partial, name, src_dir_fd=folder, dst_dir_fd=folder)


def belonging(parts: Sequence[str], mode: int) -> tuple[bool, int]:
    """(True if the platform is to own the entry at this path in a team's folder, the mode that it is to have). Pure.

    The team may read the platform's entries. Both write into a job's folder, and neither may replace the other's files.
    """
    folder = stat.S_ISDIR(mode)
    if parts[0] == _PACKAGES:
        return True, 0o2750 if folder else 0o640
    if parts[0] == _JOBS and folder and len(parts) <= 2:
        return True, local_users.TEAM_FOLDER
    if parts[0] == _JOBS and not folder and len(parts) == 3 and parts[2] in _PLATFORM_FILES:
        return True, 0o640
    return False, 0o700 if folder else 0o600 | (mode & 0o100)


def _give(above: int, parts: tuple[str, ...], number: int) -> None:
    """Set owner and mode of an entry in an open folder, and of everything in it.

    Follows no link. What is neither file nor folder, or has other hard links, stays as it is.
    """
    try:
        descriptor = os.open(parts[-1], _OPEN, dir_fd=above)
    except OSError as exc:
        if exc.errno in (errno.ELOOP, errno.ENXIO):  # a link, or a socket
            return
        raise
    try:
        entry_stat = os.fstat(descriptor)
        platform_owns, mode = belonging(parts, entry_stat.st_mode)
        if stat.S_ISDIR(entry_stat.st_mode):
            for name in os.listdir(descriptor):
                _give(descriptor, (*parts, name), number)
        elif not stat.S_ISREG(entry_stat.st_mode) or entry_stat.st_nlink > 1:
            return
        os.fchown(descriptor, 0 if platform_owns else number, number)
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def _is_named(number: int) -> bool:
    """True if the host has a user or a group of that number."""
    for look_up in (pwd.getpwuid, grp.getgrgid):
        with suppress(KeyError):
            look_up(number)
            return True
    return False
