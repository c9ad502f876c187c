"""Places of teams on this host, where each has a Unix user."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayplane import local_users, processes
from rayplane.errors import Unavailable
from rayplane.gateway.backends import local, local_head, local_teams
from rayplane.gateway.backends.base import Capability, ClusterRef, LaunchContext, TeamRef
from rayplane.gateway.backends.local import LocalBackend
from rayplane.gateway.backends.local_teams import LocalTeams, belonging
from rayplane.nouns.cluster import ClusterSpec
from rayplane.nouns.team import Size, TeamSpec
from rayplane.settings import GatewaySettings

root_alone = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives processes another user")

ALPHA, BETA = TeamRef("alpha", "a" * 32), TeamRef("beta", "b" * 32)
FOLDER, FILE = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o644


@pytest.fixture
def settings(tmp_path: Path) -> GatewaySettings:
    (tmp_path / "home").mkdir()
    return GatewaySettings(home=tmp_path / "home", local_users=True)


@pytest.fixture
def teams(settings: GatewaySettings, monkeypatch: pytest.MonkeyPatch) -> LocalTeams:
    """Teams with numbers but without folders, which other tests cover."""
    monkeypatch.setattr(LocalTeams, "_give_folder", lambda *_: None)
    return LocalTeams(settings)


def test_each_team_gets_a_number_which_it_keeps(teams: LocalTeams, settings: GatewaySettings) -> None:
    for team in (ALPHA, BETA, ALPHA):
        teams.ensure(team)
    numbers = [teams.number(team.name) for team in (ALPHA, BETA)]
    assert len(set(numbers)) == 2
    assert all(number is not None and 1_879_048_192 <= number <= 1_879_113_727 for number in numbers)
    again = LocalTeams(settings)
    again.ensure(ALPHA)
    assert [again.number(team.name) for team in (ALPHA, BETA)] == numbers
    assert settings.home_paths.local_users.stat().st_mode & 0o077 == 0


def test_a_recreated_team_gets_another_number(teams: LocalTeams) -> None:
    teams.ensure(ALPHA)
    first = teams.number("alpha")
    assert teams.delete(ALPHA) == first
    assert teams.number("alpha") is None
    teams.ensure(TeamRef("alpha", "c" * 32))
    assert teams.number("alpha") not in (None, first)


def test_a_recreated_team_retires_its_predecessor_though_the_deletion_was_missed(teams: LocalTeams) -> None:
    teams.ensure(ALPHA)
    first = teams.number("alpha")
    teams.ensure(TeamRef("alpha", "c" * 32))
    assert teams.number("alpha") not in (None, first)


def test_a_team_whose_place_is_made_again_has_its_number_again(teams: LocalTeams) -> None:
    teams.ensure(ALPHA)
    first = teams.number("alpha")
    teams.delete(ALPHA)
    teams.ensure(ALPHA)
    assert teams.number("alpha") == first


def test_deleting_a_team_that_has_no_number_succeeds(teams: LocalTeams) -> None:
    assert teams.delete(ALPHA) is None


def test_no_number_is_assigned_twice_nor_one_of_a_user_of_the_host(
    settings: GatewaySettings, teams: LocalTeams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_teams, "_is_named", lambda number: number == 5001)
    few = LocalTeams(settings.model_copy(update={"local_user_ids": (5000, 5002)}))
    few.ensure(ALPHA)
    few.delete(ALPHA)
    few.ensure(BETA)
    with pytest.raises(Unavailable, match="5000 to 5002") as refusal:
        few.ensure(TeamRef("gamma", "c" * 32))
    assert "RAYPLANE_LOCAL_USER_IDS" in (refusal.value.remedy or "")
    assert few.number("gamma") is None


def test_a_damaged_list_of_numbers_assigns_none(teams: LocalTeams, settings: GatewaySettings) -> None:
    teams.ensure(ALPHA)
    settings.home_paths.local_users.write_text("{")
    for act in (lambda: teams.ensure(BETA), lambda: teams.number("alpha")):
        with pytest.raises(Unavailable, match="damaged"):
            act()


@pytest.mark.parametrize(
    ("path", "mode", "expected"),
    [
        ("packages", FOLDER, (True, 0o2750)),
        ("packages/by-ray-name", FOLDER, (True, 0o2750)),
        ("packages/by-ray-name/one", FILE, (True, 0o640)),
        ("packages/abc.zip", FILE, (True, 0o640)),
        ("jobs", FOLDER, (True, 0o3770)),
        ("jobs/one", FOLDER, (True, 0o3770)),
        ("jobs/one/driver.log", FILE, (True, 0o640)),
        ("jobs/one/record.json", FILE, (True, 0o640)),
        ("jobs/one/other.json", FILE, (False, 0o600)),
        ("jobs/one/events", FOLDER, (False, 0o700)),
        ("jobs/one/checkpoints/record.json", FILE, (False, 0o600)),
        ("datasets", FOLDER, (False, 0o700)),
        ("datasets/packages/abc.zip", FILE, (False, 0o600)),
        ("feast/registry.db", FILE, (False, 0o600)),
        ("datasets/run", stat.S_IFREG | 0o755, (False, 0o700)),
    ],
)
def test_the_platform_owns_logs_records_and_packages_and_the_team_all_else(
    path: str, mode: int, expected: tuple[bool, int]
) -> None:
    assert belonging(tuple(path.split("/")), mode) == expected


@root_alone
def test_an_existing_folder_is_given_to_the_team_without_following_links(
    settings: GatewaySettings, tmp_path: Path
) -> None:
    folder = settings.home_paths.storage / "alpha"
    for name in ("datasets/one/part.parquet", "jobs/one/driver.log", "jobs/one/events/e.json", "packages/abc.zip"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    strange = tmp_path / "strange"
    strange.mkdir(mode=0o755)
    (strange / "file").write_text("")
    (folder / "datasets/link").symlink_to(strange)
    (folder / "datasets/file").symlink_to(strange / "file")
    os.link(strange / "file", folder / "datasets/name")
    os.mkfifo(folder / "datasets/pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(folder / "s"))
    teams = LocalTeams(settings)
    teams.ensure(ALPHA)
    teams.ensure(ALPHA)
    number = teams.number("alpha")
    assert number is not None
    owned = {
        name: (entry.st_uid, entry.st_gid, entry.st_mode & 0o7777)
        for name in ("", "jobs", "jobs/one/driver.log", "jobs/one/events", "packages/abc.zip", "datasets/one")
        for entry in [(folder / name).stat()]
    }
    assert owned == {
        "": (0, number, 0o3770),
        "jobs": (0, number, 0o3770),
        "jobs/one/driver.log": (0, number, 0o640),
        "jobs/one/events": (number, number, 0o700),
        "packages/abc.zip": (0, number, 0o640),
        "datasets/one": (number, number, 0o700),
    }
    assert {path.stat().st_uid for path in (strange, strange / "file")} == {0}


@root_alone
def test_a_recreated_team_gets_an_empty_folder(settings: GatewaySettings) -> None:
    teams, folder = LocalTeams(settings), settings.home_paths.storage / "alpha"
    teams.ensure(ALPHA)
    (folder / "datasets").mkdir()
    (folder / "datasets" / "secret").write_text("of the first")
    teams.delete(ALPHA)
    again = TeamRef("alpha", "c" * 32)
    teams.ensure(again)
    assert sorted(os.listdir(folder)) == ["jobs", "packages"]
    assert folder.stat().st_gid == teams.number("alpha")
    aside = settings.home_paths.storage / f"alpha.{ALPHA.uid}"
    assert (aside / "datasets" / "secret").read_text() == "of the first"
    entry = aside.stat()
    assert (entry.st_uid, entry.st_gid, entry.st_mode & 0o7777) == (0, 0, 0o700)


@root_alone
def test_what_root_writes_while_the_setting_is_off_belongs_to_the_team_when_it_is_on_again(
    settings: GatewaySettings,
) -> None:
    teams, folder = LocalTeams(settings), settings.home_paths.storage / "alpha"
    teams.ensure(ALPHA)
    number = teams.number("alpha")
    for _ in range(2):
        local_users.prepare(settings.model_copy(update={"local_users": False}))
        (folder / "datasets" / "one").mkdir(parents=True, exist_ok=True)
        (folder / "datasets" / "one" / "part.parquet").write_text("")
    teams.ensure(ALPHA)
    for name in ("datasets", "datasets/one", "datasets/one/part.parquet"):
        assert ((folder / name).stat().st_uid, (folder / name).stat().st_gid) == (number, number)
    assert local_users.is_given(folder.stat())


@root_alone
def test_a_folder_whose_group_is_the_number_of_another_team_is_not_moved_aside(settings: GatewaySettings) -> None:
    teams, folder = LocalTeams(settings), settings.home_paths.storage / "beta"
    teams.ensure(ALPHA)
    number = teams.number("alpha")
    assert number is not None
    folder.mkdir()
    (folder / "kept").write_text("")
    os.chown(folder, 0, number)
    teams.ensure(BETA)
    assert sorted(os.listdir(settings.home_paths.storage)) == ["alpha", "beta"]
    assert (folder / "kept").stat().st_uid == teams.number("beta")


def test_a_number_of_a_user_or_a_group_of_the_host_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(number: int) -> None:
        raise KeyError(number)

    assert local_teams._is_named(0)
    monkeypatch.setattr(local_teams.pwd, "getpwuid", unknown)
    assert local_teams._is_named(0)
    monkeypatch.setattr(local_teams.grp, "getgrgid", unknown)
    assert not local_teams._is_named(0)


@root_alone
def test_a_clusters_folders_belong_to_its_user_and_their_parent_does_not(tmp_path: Path) -> None:
    top = tmp_path / "shared" / "one"
    made = local_head.Folders(ray=top / "r", warm=top / "w", user=61200)
    local_teams.make_folders(made, {"RAYPLANE_TOKEN_PATH": "secret"})
    for path in (made.top, made.ray, made.warm, made.home, made.temporary, made.secrets):
        entry = path.stat()
        assert (entry.st_uid, entry.st_gid, entry.st_mode & 0o777) == (61200, 61200, 0o700)
    token = made.secrets / "RAYPLANE_TOKEN_PATH"
    assert (token.read_text(), token.stat().st_uid, token.stat().st_mode & 0o777) == ("secret", 61200, 0o600)
    shared = made.top.parent.stat()
    assert (shared.st_uid, shared.st_mode & 0o777) == (0, 0o711)


@root_alone
def test_folders_that_another_user_created_beforehand_are_not_used(tmp_path: Path) -> None:
    made = local_head.Folders(ray=tmp_path / "shared/one/r", warm=tmp_path / "shared/one/w", user=61200)
    made.top.parent.mkdir()
    os.chown(made.top.parent, 61201, 61201)
    with pytest.raises(Unavailable, match="it is user 61201's"):
        local_teams.make_folders(made, {"RAYPLANE_TOKEN_PATH": "secret"})
    made.top.parent.rmdir()
    made.top.parent.symlink_to(tmp_path)
    with pytest.raises(Unavailable, match="not the platform's own folder"):
        local_teams.make_folders(made, {"RAYPLANE_TOKEN_PATH": "secret"})
    assert not (tmp_path / "one").exists()


@pytest.fixture
def backend(settings: GatewaySettings, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalBackend]:
    monkeypatch.setattr(local_users, "require", lambda _: None)
    monkeypatch.setattr(LocalTeams, "_give_folder", lambda *_: None)
    made = LocalBackend(settings)
    yield made
    made.close()


def test_the_backend_keeps_a_place_for_each_team(backend: LocalBackend, tmp_path: Path) -> None:
    assert Capability.TEAM in backend.capabilities
    assert Capability.TEAM not in LocalBackend(GatewaySettings(home=tmp_path / "plain")).capabilities
    for _ in range(2):
        assert backend.teams.ensure(ALPHA, TeamSpec()) == ""
    for _ in range(2):
        assert backend.teams.delete(ALPHA) == ""


def test_a_cluster_of_a_team_without_a_user_does_not_start_as_the_platforms_user(backend: LocalBackend) -> None:
    ref = ClusterRef("alpha", "dev", "d" * 32)
    backend.clusters.ensure(ref, ClusterSpec(), LaunchContext(size=Size(cpu=1, memory=2**30)))
    work = backend.clusters._work[ref.uid]
    assert work.thread is not None
    work.thread.join(60)
    observation = backend.clusters.observe(ref, ClusterSpec())
    assert observation.phase == "failed"
    assert "Team 'alpha' has no Unix user yet" in observation.message


def test_a_head_that_runs_as_the_wrong_user_is_not_ready_and_is_restarted(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = ClusterRef("alpha", "dev", "d" * 32)
    processes.save(_head(user=None), backend.clusters._records)
    assert backend.clusters.observe(ref, ClusterSpec()).reason == "WrongUser"
    asked: list[str] = []
    monkeypatch.setattr(backend.clusters, "_start", lambda ref, _: asked.append(str(ref)))
    backend.clusters.ensure(ref, ClusterSpec(), LaunchContext(size=Size(cpu=1, memory=2**30)))
    thread = backend.clusters._work[ref.uid].thread
    assert thread is not None
    thread.join(60)
    assert asked == ["alpha/dev"]  # a start first stops the running head


def test_no_token_is_sent_to_another_users_listener(backend: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = ClusterRef("alpha", "dev", "d" * 32)
    with socket.create_server((local_head.NODE_ADDRESS, 0)) as stranger:
        port = int(stranger.getsockname()[1])
        processes.save(_head(user=os.geteuid() + 1, port=port), backend.clusters._records)
        observation = backend.clusters.observe(ref, ClusterSpec())
        stranger.settimeout(0)
        with pytest.raises(BlockingIOError):
            stranger.accept()
    assert (observation.phase, observation.reason) == ("starting", "PortTaken")
    assert f"Port {port} of its dashboard is user {os.geteuid()}'s" in observation.message


def _head(user: int | None, port: int = 1) -> local_head.HeadRecord:
    """Record of a running head, for which this process stands."""
    started = processes._start_time(os.getpid())
    assert started is not None
    ports = dict.fromkeys(("dashboard", "client", "serve", "metrics", "dashboard_metrics", "autoscaler_metrics"), port)
    return local_head.HeadRecord(
        name="d" * 32,
        pid=os.getpid(),
        session=os.getsid(0),
        started=started,
        mark="none",
        boot=processes._boot(),
        user=user,
        ports=ports,
        token_path="/nowhere",
    )


@root_alone
def test_deleting_a_team_ends_hidden_processes_of_its_user(backend: LocalBackend) -> None:
    backend.teams.ensure(ALPHA, TeamSpec())
    number = backend.clusters._teams.number("alpha") if backend.clusters._teams is not None else None
    assert number is not None
    pid = os.fork()
    if pid == 0:
        os.setresgid(number, number, number)
        os.setresuid(number, number, number)
        os.execvpe("sleep", ["sleep", "1000"], {})
    try:
        while processes.of_users([number]) != [pid]:
            assert os.waitpid(pid, os.WNOHANG) == (0, 0)
        backend.teams.delete(ALPHA)
        assert processes.of_users([number]) == []
    finally:
        if processes._start_time(pid) is not None:
            os.kill(pid, 9)


class _Asked(Exception):
    """Raised in place of starting a head, with its arguments."""

    def __init__(self, argv: list[str], env: dict[str, str], user: int | None) -> None:
        super().__init__()
        self.argv, self.env, self.user = argv, env, user


@pytest.mark.parametrize("users", [False, pytest.param(True, marks=root_alone)])
def test_a_head_gets_paths_of_files_that_it_can_read(
    settings: GatewaySettings, monkeypatch: pytest.MonkeyPatch, users: bool
) -> None:
    def start(name: str, argv: list[str], *, env: dict[str, str], user: int | None, **_: object) -> None:
        raise _Asked(argv, env, user)

    monkeypatch.setattr(local_users, "require", lambda _: None)
    monkeypatch.setattr(processes, "start", start)
    backend = LocalBackend(settings.model_copy(update={"local_users": users}))
    if users:
        backend.teams.ensure(ALPHA, TeamSpec())
    ref = ClusterRef("alpha", "dev", "d" * 32)
    launch = LaunchContext(size=Size(cpu=1, memory=2**30), secrets={"RAYPLANE_TOKEN_PATH": "the cluster's"})
    try:
        with pytest.raises(_Asked) as asked:
            backend.clusters._start(ref, launch)
        env, number = asked.value.env, asked.value.user
        assert (number is not None) == users
        paths = {name: Path(env[name]) for name in ("RAYPLANE_TOKEN_PATH", "RAY_AUTH_TOKEN_PATH")}
        assert paths["RAYPLANE_TOKEN_PATH"].read_text() == "the cluster's"
        assert paths["RAY_AUTH_TOKEN_PATH"].read_text() == backend.clusters._token_path(ref.uid).read_text()
        folders = local_head.folders(settings.home_paths.id, ref.uid, number)
        assert f"--temp-dir={folders.ray}" in asked.value.argv
        assert str(folders.warm) in asked.value.argv
        for path in (*paths.values(), folders.ray, folders.warm):
            assert (path.stat().st_uid, path.stat().st_mode & 0o077) == (number if users else os.geteuid(), 0)
        assert (env["HOME"] == str(folders.home)) == users
        backend.clusters._remove(ref)
        assert [folder for folder in local_head.remains(settings.home_paths.id, ref.uid) if folder.exists()] == []
        assert [path for path in paths.values() if path.exists()] == []
    finally:
        shared = local_head.folders(settings.home_paths.id, ref.uid, 0).top.parent
        if shared.exists():
            shared.rmdir()


@pytest.fixture
def public(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to which all users may write, in the place of /tmp."""
    with tempfile.TemporaryDirectory(prefix="rp", dir="/tmp") as name:
        Path(name).chmod(0o1777)
        monkeypatch.setattr(tempfile, "tempdir", name)
        yield Path(name)


def test_what_another_user_planted_in_the_temporary_folder_hinders_no_deletion(
    backend: LocalBackend, settings: GatewaySettings, tmp_path: Path, public: Path
) -> None:
    ref, victim = ClusterRef("alpha", "dev", "d" * 32), tmp_path / "victim"
    (victim / "precious").mkdir(parents=True)
    planted, link, top = local_head.remains(settings.home_paths.id, ref.uid)
    assert {planted.parent, link.parent} == {public}
    link.symlink_to(victim)
    planted.mkdir()
    if os.geteuid() == 0:
        (victim / top.name).mkdir()
        top.parent.symlink_to(victim)
        for path in (planted, top.parent):
            os.chown(path, 61201, 61201, follow_symlinks=False)
    names = sorted(os.listdir(victim))
    backend.clusters.delete(ref)
    work = backend.clusters._work[ref.uid]
    assert work.thread is not None
    work.thread.join(60)
    assert work.error is None
    assert link.is_symlink()
    assert sorted(os.listdir(victim)) == names
    assert planted.exists() == (os.geteuid() == 0)


@root_alone
def test_a_clusters_folder_that_its_teams_user_owns_is_removed(
    backend: LocalBackend, settings: GatewaySettings, public: Path
) -> None:
    ref = ClusterRef("alpha", "dev", "d" * 32)
    folders = local_head.folders(settings.home_paths.id, ref.uid, 61200)
    local_teams.make_folders(folders, {"RAYPLANE_TOKEN_PATH": "secret"})
    backend.clusters._remove(ref)
    assert not folders.top.exists()


def test_any_error_of_the_work_on_a_cluster_is_reported(backend: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    def unforeseen(ref: ClusterRef) -> None:
        raise RecursionError("maximum recursion depth exceeded")

    monkeypatch.setattr(backend.clusters, "_remove", unforeseen)
    ref = ClusterRef("alpha", "dev", "d" * 32)
    backend.clusters.delete(ref)
    thread = backend.clusters._work[ref.uid].thread
    assert thread is not None
    thread.join(60)
    observation = backend.clusters.observe(ref, ClusterSpec())
    assert (observation.phase, observation.reason) == ("stopping", "RecursionError")


def test_renewed_secrets_belong_to_the_user_and_follow_no_link(tmp_path: Path) -> None:
    user = os.geteuid()
    folders = local_head.Folders(ray=tmp_path / "c" / "r", warm=tmp_path / "c" / "w", user=user)
    folders.secrets.mkdir(parents=True)
    for name in ("RAYPLANE_TOKEN_PATH", "RAY_AUTH_TOKEN_PATH"):
        (folders.secrets / name).write_text("former")
    (tmp_path / "victim").write_text("victim's")
    (folders.secrets / "RAYPLANE_MLFLOW_CREDENTIALS").symlink_to(tmp_path / "victim")
    renewed = {"RAYPLANE_TOKEN_PATH": "new", "RAYPLANE_MLFLOW_CREDENTIALS": "new", "OTHER": "new"}
    local_teams.renew_secrets(folders, renewed)
    inode = (folders.secrets / "RAYPLANE_TOKEN_PATH").stat().st_ino
    local_teams.renew_secrets(folders, renewed)
    assert {path.name: path.read_text() for path in folders.secrets.iterdir()} == {
        "RAYPLANE_TOKEN_PATH": "new",
        "RAYPLANE_MLFLOW_CREDENTIALS": "new",
        "RAY_AUTH_TOKEN_PATH": "former",
    }
    assert (tmp_path / "victim").read_text() == "victim's"
    token = (folders.secrets / "RAYPLANE_TOKEN_PATH").stat()
    assert (stat.S_IMODE(token.st_mode), token.st_uid, token.st_ino) == (0o600, user, inode)
    shutil.rmtree(folders.secrets)
    folders.secrets.symlink_to(tmp_path)
    (tmp_path / "RAYPLANE_TOKEN_PATH").write_text("another's")
    with pytest.raises(Unavailable, match="can't be renewed"):
        local_teams.renew_secrets(folders, renewed)
    assert (tmp_path / "RAYPLANE_TOKEN_PATH").read_text() == "another's"


def test_secrets_are_renewed_without_listing_a_folder_that_the_team_may_fill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = local_head.Folders(ray=tmp_path / "c" / "r", warm=tmp_path / "c" / "w", user=os.geteuid())
    folders.secrets.mkdir(parents=True)
    (folders.secrets / "RAYPLANE_TOKEN_PATH").write_text("former")

    def endless(folder: object) -> list[str]:
        raise AssertionError("the folder has more names than memory has room for")

    monkeypatch.setattr(os, "listdir", endless)
    local_teams.renew_secrets(folders, {"RAYPLANE_TOKEN_PATH": "new", "OTHER": "new"})
    monkeypatch.undo()
    assert [(path.name, path.read_text()) for path in folders.secrets.iterdir()] == [("RAYPLANE_TOKEN_PATH", "new")]


def test_of_a_huge_log_of_a_head_the_end_alone_is_read(tmp_path: Path) -> None:
    path = tmp_path / "ray.log"
    with path.open("wb") as file:
        file.truncate(2**40)
        file.seek(0, os.SEEK_END)
        file.write(b"\nit ran out of memory\n")
    words = local._last_words(_head(user=None).model_copy(update={"log": str(path)}))
    assert words.endswith("it ran out of memory")
