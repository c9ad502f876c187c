"""Unix users for the teams of a local platform (RAYPLANE_LOCAL_USERS): what the host must allow, and a shut home.

A team's user has a number and no name: nothing is written to /etc/passwd. What the platform keeps stays root's and out
of its reach; of the home it can only pass through, on its way to its own folder of the storage root.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from importlib import util
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from rayplane.errors import InvalidInput, Unavailable
from rayplane.settings import GatewaySettings, Home
from rayplane.storage import layout
from rayplane.storage.root import open_root

UMASK = 0o077
"""What the platform's own processes, and those of the teams, keep from others of all that they make."""
TEAM_FOLDER = 0o3770
"""Of a folder in which a team and the platform write: root's, with the team's group, to which all that is made in it
belongs (setgid). What root makes there only root takes away (sticky)."""

PROTECTED_LINKS = Path("/proc/sys/fs/protected_hardlinks")

_PACKAGES = ("rayplane", "ray")
_OPEN_FILES = "import sys\nfor path in sys.argv[1:]:\n    open(path, 'rb').close()\n"


class Numbered(BaseModel):
    """The user of one team, by the team's uid. It is never another's, not even once the team is gone."""

    model_config = ConfigDict(extra="ignore")
    team: str
    number: int
    gone: bool = False


class Numbers(BaseModel):
    """Which number the user of each team has, by the team's uid."""

    model_config = ConfigDict(extra="ignore")
    teams: dict[str, Numbered] = {}


def read(home: Home) -> Numbers:
    """The numbers of a home's teams; none where the setting was never on. Raises Unavailable for a damaged file."""
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
    """Do nothing where the setting is off. Raises InvalidInput where the host or another setting rules it out."""
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
            remedy="Write the first and the last as JSON, such as [61184, 65519].",
        )
    if storage_folder(settings) is None:
        raise InvalidInput(
            f"RAYPLANE_LOCAL_USERS shares out a folder, and the storage root is '{settings.root_uri}'.",
            remedy="Use a storage root of scheme file, or unset RAYPLANE_LOCAL_USERS.",
        )


def storage_folder(settings: GatewaySettings) -> Path | None:
    """The storage root, where that is a folder."""
    path = open_root(settings.root_uri).local_path("")
    return None if path is None else Path(path)


def prepare(settings: GatewaySettings) -> list[str]:
    """Shut the home to the teams' users but for the way to the storage root, and check that they can run Python.

    The names of the teams that have files which are not their user's yet: they are shut too, until those are.

    Every process that starts the platform's parts calls it first: it sets this process' umask too, which they inherit.
    Does nothing where the setting is off. Raises InvalidInput, as ``require`` does and where the interpreter, a
    package or the storage root can't be reached by other users.
    """
    require(settings)
    if not settings.local_users:
        return []
    os.umask(UMASK)
    root = storage_folder(settings)
    assert root is not None  # as required
    home = settings.home.resolve()
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    inside = root.is_relative_to(home)
    for entry in os.scandir(home):
        if not (inside and root.is_relative_to(entry.path)):
            _shut(entry.path)
    shut = [entry.name for entry in os.scandir(root) if not is_given(entry.stat(follow_symlinks=False))]
    for name in shut:
        _shut(f"{root}/{name}")
    for folder in [root, *(part for part in root.parents if inside and part.is_relative_to(home))]:
        folder.chmod(0o711)
    _check_reach(settings.local_user_ids[0], root)
    return sorted(name for name in shut if "." not in name and name != layout.mlflow_artifacts())


def is_given(found: os.stat_result) -> bool:
    """Whether a folder of the storage root is given to the user of a team."""
    return stat.S_ISDIR(found.st_mode) and found.st_gid != 0 and stat.S_IMODE(found.st_mode) == TEAM_FOLDER


def _links_are_guarded() -> bool:
    try:
        return PROTECTED_LINKS.read_text().strip() != "0"
    except FileNotFoundError:  # a sandbox without it
        return True


def _shut(path: str) -> None:
    mode = os.stat(path, follow_symlinks=False).st_mode
    if not stat.S_ISLNK(mode) and mode & 0o077:
        os.chmod(path, stat.S_IMODE(mode) & 0o700)


def _check_reach(number: int, root: Path) -> None:
    """Raise InvalidInput unless a user of a number can start this interpreter, read its packages and enter the root."""
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
        said = done.stderr.strip().splitlines()[-1:] if done.returncode else []
    except PermissionError as exc:
        said = [str(exc)]
    barred = next((bar for path in [sys.executable, sys.base_prefix, *files, str(root)] if (bar := _barrier(path))), "")
    if barred:
        raise InvalidInput(
            f"The users of teams can't get past '{barred}', in which is what they need: Python, its packages or the "
            "storage root.",
            remedy="Install rayplane where all users may enter, such as /opt, and set RAYPLANE_HOME to such a place, "
            f"such as /var/lib/rayplane; or, where nothing in it is secret, run: chmod o+x {barred}",
        )
    if said:
        raise InvalidInput(
            f"The users of teams can't run '{sys.executable}' with its packages: {said[0]}",
            remedy="Install rayplane so that all users may read it, such as with umask 022 below /opt.",
        )


def _barrier(path: str) -> str:
    """The first folder on the way to a path, and to what it links to, that others may not enter."""
    for target in dict.fromkeys([Path(path).absolute(), Path(path).resolve()]):
        for folder in reversed(target.parents):
            if not folder.stat().st_mode & 0o001:
                return str(folder)
    return ""
