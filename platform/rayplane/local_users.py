"""Unix users for the teams of a local platform (RAYPLANE_LOCAL_USERS): check the host, and protect the home from them.

A team's user has a number (uid) but no name: nothing is written to /etc/passwd. It can't access the platform's own
files, which stay root's. In the home it may only traverse folders, on the way to its own folder of the storage root.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import subprocess
import sys
from importlib import util
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from rayplane.errors import InvalidInput, Unavailable
from rayplane.nouns.base import MAX_NAME, NAME
from rayplane.settings import GatewaySettings, Home
from rayplane.storage import layout
from rayplane.storage.root import open_root

UMASK = 0o077
"""Umask of the platform's and the teams' processes: no other user may access what they create."""
TEAM_FOLDER = 0o3770
"""Mode of a folder in which both a team and the platform write. It is owned by root and has the team's group, which new
entries inherit (setgid). Only root can delete entries of root (sticky)."""

PROTECTED_LINKS = Path("/proc/sys/fs/protected_hardlinks")

_PACKAGES = ("rayplane", "ray")
_OPEN_FILES = "import sys\nfor path in sys.argv[1:]:\n    open(path, 'rb').close()\n"


class Numbered(BaseModel):
    """The Unix user of one team. Its number is never given to another team, even after the team is deleted."""

    model_config = ConfigDict(extra="ignore")
    team: str
    number: int
    gone: bool = False


class Numbers(BaseModel):
    """The teams' Unix users, by the uid of the team object."""

    model_config = ConfigDict(extra="ignore")
    teams: dict[str, Numbered] = {}


def read(home: Home) -> Numbers:
    """Read the users of a home's teams; empty if the setting was never on. Raises Unavailable for a damaged file."""
    try:
        return Numbers.model_validate_json(home.local_users.read_bytes())
    except FileNotFoundError:
        return Numbers()
    except ValidationError as exc:
        raise Unavailable(
            f"'{home.local_users}', in which are the numbers of the teams' users, is damaged.",
            remedy="Restore it from a backup: without it a team could get the files of another.",
        ) from exc


def require(settings: GatewaySettings) -> None:
    """If the setting is on, check its preconditions; raises InvalidInput if the host or a setting rules it out."""
    if not settings.local_users:
        return
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        raise InvalidInput(
            "RAYPLANE_LOCAL_USERS asks for a Unix user per team, which needs Linux and a platform that root runs; "
            f"this process is user {os.geteuid()} on {sys.platform}.",
            remedy="Run 'rayplane up' as root, or unset RAYPLANE_LOCAL_USERS.",
        )
    if not _links_are_guarded():
        raise InvalidInput(
            "RAYPLANE_LOCAL_USERS needs a kernel that lets no user make hard links to files of others.",
            remedy="Run: sysctl fs.protected_hardlinks=1",
        )
    first, last = settings.local_user_ids
    if not 1000 <= first <= last < 2**31:
        raise InvalidInput(
            f"RAYPLANE_LOCAL_USER_IDS is {first} to {last}: no range of users' numbers from 1000 on.",
            remedy="Write the first and the last as JSON, such as [1879048192, 1879113727].",
        )
    if storage_folder(settings) is None:
        raise InvalidInput(
            f"RAYPLANE_LOCAL_USERS shares out a folder, and the storage root is '{settings.root_uri}'.",
            remedy="Use a storage root of scheme file, or unset RAYPLANE_LOCAL_USERS.",
        )


def storage_folder(settings: GatewaySettings) -> Path | None:
    """Folder of the storage root; None if it is no folder of this host."""
    path = open_root(settings.root_uri).local_path("")
    return None if path is None else Path(path)


def prepare(settings: GatewaySettings) -> list[str]:
    """Close the home to the teams' users, except for the way to the storage root, and check that they can run Python.

    Returns the names of teams whose folders in the storage root do not belong to their user yet; those folders are
    closed too, until the backend hands them over.

    Every process that starts parts of the platform calls this first, since it also sets the umask that they inherit.
    If the setting is off, it only takes back the folders of a home in which it was on, so that switching it on again
    hands over what root writes meanwhile. Raises InvalidInput as ``require`` does, and if other users can't reach the
    interpreter, a package or the storage root.
    """
    require(settings)
    if not settings.local_users:
        _take_back(settings)
        return []
    os.umask(UMASK)
    root = storage_folder(settings)
    assert root is not None  # checked by require
    home = settings.home.resolve()
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    inside = root.is_relative_to(home)
    for entry in os.scandir(home):
        if not (inside and root.is_relative_to(entry.path)):
            _close_to_others(entry.path)
    shut = [entry.name for entry in os.scandir(root) if not is_given(entry.stat(follow_symlinks=False))]
    for name in shut:
        _close_to_others(f"{root}/{name}")
    for folder in [root, *(part for part in root.parents if inside and part.is_relative_to(home))]:
        folder.chmod(0o711)
    _check_reach(settings.local_user_ids[0], root)
    return sorted(name for name in shut if _may_be_a_teams(name) and os.path.isdir(f"{root}/{name}"))


def is_given(status: os.stat_result) -> bool:
    """True if a folder of the storage root has been handed over to the user of a team."""
    return stat.S_ISDIR(status.st_mode) and status.st_gid != 0 and stat.S_IMODE(status.st_mode) == TEAM_FOLDER


def _take_back(settings: GatewaySettings) -> None:
    """Take from the teams' folders the mode that shows that all in them belongs to the team's user."""
    if os.geteuid() != 0 or not settings.home_paths.local_users.exists():
        return
    root = storage_folder(settings)
    if root is not None and root.is_dir():
        for entry in os.scandir(root):
            if is_given(entry.stat(follow_symlinks=False)):
                os.chmod(entry.path, 0o700)  # its group stays: it shows whose folder it was


def _may_be_a_teams(folder: str) -> bool:
    """True for the name of a folder of the storage root that can be a team's: neither MLflow's nor the archive's."""
    return re.fullmatch(NAME, folder) is not None and len(folder) <= MAX_NAME and folder != layout.mlflow_artifacts()


def _links_are_guarded() -> bool:
    try:
        return PROTECTED_LINKS.read_text().strip() != "0"
    except FileNotFoundError:  # a sandbox that lacks the file
        return True


def _close_to_others(path: str) -> None:
    mode = os.stat(path, follow_symlinks=False).st_mode
    if not stat.S_ISLNK(mode) and mode & 0o077:
        os.chmod(path, stat.S_IMODE(mode) & 0o700)


def _check_reach(number: int, root: Path) -> None:
    """Raise InvalidInput unless a user can start this interpreter, read its packages and enter the storage root."""
    files = [spec.origin for name in _PACKAGES if (spec := util.find_spec(name)) is not None and spec.origin]
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _OPEN_FILES, *files],
            user=number,
            group=number,
            extra_groups=[],
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        error = done.stderr.strip().splitlines()[-1:] if done.returncode else []
    except PermissionError as exc:
        error = [str(exc)]
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise
        raise InvalidInput(
            f"No process of this host or container can be user {number}, the first of RAYPLANE_LOCAL_USER_IDS.",
            remedy="Write a range of numbers that are in /proc/self/uid_map and that nothing else uses.",
        ) from exc
    barrier = next(
        (bar for path in [sys.executable, sys.base_prefix, *files, str(root)] if (bar := _barrier(path))), ""
    )
    if barrier:
        raise InvalidInput(
            f"The users of teams can't get past '{barrier}', in which is what they need: Python, its packages or the "
            "storage root.",
            remedy="Install rayplane where all users may enter, such as /opt, and set RAYPLANE_HOME to such a place, "
            f"such as /var/lib/rayplane; or, where nothing in it is secret, run: chmod o+x {barrier}",
        )
    if error:
        raise InvalidInput(
            f"The users of teams can't run '{sys.executable}' with its packages: {error[0]}",
            remedy="Install rayplane so that all users may read it, such as with umask 022 below /opt.",
        )


def _barrier(path: str) -> str:
    """The first folder that other users may not enter on the way to a path or its link's target; empty if none."""
    for target in dict.fromkeys([Path(path).absolute(), Path(path).resolve()]):
        for folder in reversed(target.parents):
            if not folder.stat().st_mode & 0o001:
                return str(folder)
    return ""
