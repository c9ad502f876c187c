"""`rayplane backup` and `restore` on a home without processes: contents, equality after a restore, refusals."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import stat
import threading
import zipfile
from dataclasses import asdict
from pathlib import Path

import pytest

from rayplane import local_users
from rayplane.client.backup import archive, child, form, inventory, make, restore
from rayplane.client.backup.form import Contents, StorePart
from rayplane.errors import Conflict, InvalidData, InvalidInput, NotFound, StorageFull, Unavailable, Unsupported
from rayplane.gateway.store import Store
from rayplane.settings import GatewaySettings, Home, write_secret
from rayplane.storage import layout
from rayplane.storage.root import open_root
from tests.unit.client.backup import homes
from tests.unit.client.backup.homes import TEAM
from tests.unit.client.command import run


def quiet(text: str) -> None:
    assert text


def unexpected(path: str, reason: str) -> None:
    raise AssertionError(f"{path}: {reason}")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    for name in [name for name in os.environ if name.startswith("RAYPLANE_") and name != "RAYPLANE_TEST_SESSION"]:
        monkeypatch.delenv(name)
    return Home(tmp_path / "source" / "home")


@pytest.fixture
def gateway_process() -> None:
    """Run the store's part in a process of the gateway, as in production."""


@pytest.fixture(autouse=True)
def _in_this_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the store's part in the test's own process, which saves a second per test."""

    def snapshot(verb: str, folder: Path, home: Path) -> StorePart:
        store = Store(GatewaySettings(home=home).store_url)
        try:
            summary = {"write": store.write_snapshot, "read": store.read_snapshot}[verb](folder)
        finally:
            store.close()
        return StorePart.model_validate(asdict(summary))

    if "gateway_process" not in request.fixturenames:
        monkeypatch.setattr(child, "snapshot", snapshot)


@pytest.fixture
def settings(home: Home) -> GatewaySettings:
    return homes.furnish(home)


def backup(settings: GatewaySettings, to: Path, *, files: bool = False, secrets: bool = True) -> Path:
    return make.backup(settings, to, files=files, secrets=secrets, say=quiet).path


def restored(file: Path, home: Path, *, root: str | None = None, incomplete: bool = False) -> restore.Restored:
    settings = GatewaySettings(home=home, storage_root=root)
    return restore.restore(file, settings, incomplete=incomplete, say=quiet)


def left_beside(file: Path) -> list[str]:
    return sorted(path.name for path in file.parent.iterdir())


def altered(file: Path, **changes: object) -> None:
    """Rewrite a backup with other contents."""
    with zipfile.ZipFile(file) as old:
        members = {name: old.read(name) for name in old.namelist()}
    contents = json.loads(members[form.CONTENTS])
    members[form.CONTENTS] = json.dumps({**contents, **changes}).encode()
    with zipfile.ZipFile(file, "w") as new:
        for name, data in members.items():
            new.writestr(name, data)


def test_a_restored_home_is_equal_and_knows_its_storage_root(
    settings: GatewaySettings, home: Home, tmp_path: Path, gateway_process: None
) -> None:
    file = backup(settings, tmp_path / "b")
    assert left_beside(file) == ["b", "source"]
    done = restored(file, tmp_path / "other")
    other = GatewaySettings(home=tmp_path / "other")
    assert homes.tables(other) == homes.tables(settings)
    assert done.difference.is_none
    assert other.root_uri == settings.root_uri, "the files stay where they were"
    assert homes.rows(other.home_paths.workflows, "workflow_status") == [("run-1",)]
    for part in ("token", "secrets/signing.key", f"secrets/teams/{TEAM}.mlflow"):
        assert (other.home / part).read_bytes() == (home.path / part).read_bytes()
        assert stat.S_IMODE((other.home / part).stat().st_mode) == 0o600
    assert homes.rows(other.home_paths.mlflow / "auth.db", "alembic_version") == [("4ae0a8f",)]
    assert homes.rows(other.home_paths.feast / "registry.db", "feature_views") == homes.rows(
        home.feast / "registry.db", "feature_views"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "other", "source"], "nothing half-made is left"


def test_each_part_is_copied_before_the_parts_that_it_refers_to(settings: GatewaySettings, tmp_path: Path) -> None:
    with zipfile.ZipFile(backup(settings, tmp_path / "b", files=True)) as members:
        order = members.namelist()
    parts = ("home/workflows.db", "store/objects.jsonl", "home/secrets/signing.key", "home/mlflow/mlflow.db")
    places = [order.index(name) for name in (*parts, "home/feast/registry.db", "files/00000001", form.INVENTORY)]
    assert places == sorted(places)


def test_a_backup_moves_a_platform_to_postgres_and_another_moves_it_back(
    settings: GatewaySettings, tmp_path: Path, postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = backup(settings, tmp_path / "1"), tmp_path / "2"
    monkeypatch.setenv("RAYPLANE_DATABASE_URL", postgres_database)
    restored(first, tmp_path / "on-postgres")
    there = GatewaySettings(home=tmp_path / "on-postgres")
    assert not there.home_paths.database.exists()
    backup(there, second)
    with pytest.raises(Conflict, match="not empty"):
        restored(first, tmp_path / "again")
    monkeypatch.delenv("RAYPLANE_DATABASE_URL")
    restored(second, tmp_path / "on-sqlite")
    assert homes.tables(GatewaySettings(home=tmp_path / "on-sqlite")).tables == homes.tables(settings).tables


def test_only_its_owner_may_read_a_backup_and_it_never_overwrites_a_file(
    settings: GatewaySettings, tmp_path: Path
) -> None:
    file = backup(settings, tmp_path / "b")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.read_bytes()
    with pytest.raises(Conflict, match="is there already"):
        backup(settings, file)
    assert file.read_bytes() == before
    named = backup(settings, tmp_path)
    assert named.parent == tmp_path
    assert named.name.startswith("rayplane-")


def test_a_backup_with_files_is_restored_without_the_old_home_and_storage_root(
    settings: GatewaySettings, home: Home, tmp_path: Path
) -> None:
    file = backup(settings, tmp_path / "b", files=True)
    before = homes.tables(settings)
    shutil.rmtree(home.path)
    done = restored(file, tmp_path / "other")
    other = GatewaySettings(home=tmp_path / "other")
    assert other.root_uri == f"file://{tmp_path}/other/storage"
    assert restore.check(file, other, say=quiet).difference.is_none
    checkpoint = f"{layout.job(TEAM, 'j1')}/checkpoints/.metadata.json"
    assert open_root(other.root_uri).read(checkpoint) == b"{}", "names that begin with a dot are files too"
    after = homes.tables(other)
    differ = {table for table, count in after.tables.items() if count != before.tables[table]}
    assert differ == {"dataset_versions"}, "of the tables those alone that name the root's place"
    place = layout.dataset_version(TEAM, "flights", "v1")
    store = Store(other.store_url)
    assert store.get_dataset_version(TEAM, "flights").uri == f"{other.root_uri}/{place}"
    store.close()
    [(_, message)] = homes.rows(other.home_paths.feast / "registry.db", "feature_views")
    assert homes.source_of(message) == f"{other.home_paths.storage}/{place}/part-*.parquet"
    assert done.difference.is_none


def test_an_empty_storage_root_elsewhere_is_filled_and_one_with_other_files_is_refused(
    settings: GatewaySettings, tmp_path: Path
) -> None:
    file = backup(settings, tmp_path / "b", files=True)
    strange = tmp_path / "strange"
    root = open_root(f"file://{strange}")
    root.write(layout.package(TEAM, homes.PACKAGE), b"anything")
    with pytest.raises(Conflict, match=f"changed: {TEAM}/packages"):
        restored(file, tmp_path / "one", root=f"file://{strange}")
    assert not (tmp_path / "one").exists()
    place = f"file://{tmp_path}/volume"
    assert restored(file, tmp_path / "two", root=place).difference.is_none
    assert GatewaySettings(home=tmp_path / "two").root_uri == place


def test_a_storage_root_that_lost_files_is_refused_naming_them_unless_incomplete_is_set(
    settings: GatewaySettings, home: Home, tmp_path: Path
) -> None:
    file = backup(settings, tmp_path / "b")
    root = open_root(settings.root_uri)
    root.delete(layout.package(TEAM, homes.PACKAGE))
    part = f"{layout.dataset_version(TEAM, 'flights', 'v1')}/part-0.parquet"
    root.write(part, b"PAR2" * 1000)
    with pytest.raises(Conflict) as refused:
        restored(file, tmp_path / "other")
    assert refused.value.fields == {"missing": [layout.package(TEAM, homes.PACKAGE)], "changed": [part]}
    assert not (tmp_path / "other").exists()
    restored(file, tmp_path / "other", incomplete=True)
    assert (tmp_path / "other" / "token").is_file()


def test_a_log_that_grew_counts_as_unchanged_and_one_with_another_beginning_as_changed(
    settings: GatewaySettings, tmp_path: Path
) -> None:
    file = backup(settings, tmp_path / "b")
    root, log = open_root(settings.root_uri), layout.job_log(TEAM, "j1")
    root.append(log, b"line 2\n")
    assert restore.check(file, settings, say=quiet).difference.is_none
    root.write(log, b"LINE 1\nline 2\n")
    assert restore.check(file, settings, say=quiet).difference.changed == [log]
    root.write(log, b"line")
    assert restore.check(file, settings, say=quiet).difference.changed == [log]


def test_the_inventory_leaves_out_unfinished_files_and_entries_that_are_no_regular_files(
    settings: GatewaySettings, home: Home
) -> None:
    folder = home.storage / TEAM / "jobs" / "j1"
    (folder / f".x.{'0' * 32}").write_bytes(b"half")
    (folder / "link").symlink_to(home.token)
    os.mkfifo(folder / "pipe")
    (home.storage / TEAM / "feast").mkdir()
    (home.storage / TEAM / "feast" / "online.db").symlink_to(home.database)
    paths = [file.path for file in inventory.list_files(home.storage, leave=unexpected)]
    assert len(paths) == 4
    assert not [path for path in paths if "x." in path or "link" in path or "pipe" in path or "feast" in path]
    assert list(inventory.databases(home.storage, leave=unexpected)) == [], (
        "no team has its backup copy another's database"
    )


def test_a_database_in_a_teams_folder_is_copied_by_sqlite_and_restored(
    settings: GatewaySettings, home: Home, tmp_path: Path
) -> None:
    homes.sqlite(home.storage / TEAM / "feast" / "online.db", "delays", ["1"])
    file = backup(settings, tmp_path / "b", files=True)
    restored(file, tmp_path / "other")
    assert homes.rows(tmp_path / "other" / "storage" / TEAM / "feast" / "online.db", "delays") == [("1",)]


def test_a_teams_database_that_can_not_be_copied_safely_is_left_out_with_the_reason(
    settings: GatewaySettings, home: Home, tmp_path: Path
) -> None:
    folder = home.storage / TEAM / "feast"
    homes.sqlite(folder / "good.db", "delays", ["1"])
    victim = tmp_path / "source" / "victim"
    homes.plant_super_journal(folder / "crafted.db", victim)
    made = make.backup(settings, tmp_path / "b", files=True, secrets=True, say=quiet)
    assert victim.exists()
    [left] = made.contents.left_out
    assert left.path == f"{TEAM}/feast/crafted.db"
    assert "can't be read as a SQLite database" in left.reason
    assert f"root/{TEAM}/feast/good.db" in made.contents.members


def test_a_teams_file_that_can_not_be_kept_is_left_out_with_the_reason_and_the_rest_is_kept(
    settings: GatewaySettings,
    home: Home,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    gateway_process: None,
) -> None:
    folder = home.storage / TEAM / "jobs" / "j1"
    (home.storage / TEAM / "feast").mkdir()
    (home.storage / TEAM / "feast" / "garbage.db").write_bytes(b"no database" * 1000)
    with (folder / "sparse").open("wb") as file:
        file.truncate(inventory.HOLES + 2**20)
    (folder / ("n" * 221)).write_bytes(b"1")
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff")).write_bytes(b"1")
    make_nested(folder, 1500)
    monkeypatch.setenv("RAYPLANE_HOME", str(home.path))
    try:
        code, out, err = run(capsys, "backup", "--to", str(tmp_path / "b"), "--files", "-o", "json")
    finally:
        remove_nested(folder, 1500)
    assert code == 0
    left = {entry["path"]: entry["reason"] for entry in json.loads(out)["left_out"]}
    jobs = f"{TEAM}/jobs/j1"
    assert "can't be read as a SQLite database" in left.pop(f"{TEAM}/feast/garbage.db")
    assert "sparse" in left.pop(f"{jobs}/sparse")
    assert "longer than 220 bytes" in left.pop(f"{jobs}/{'n' * 221}")
    assert "no UTF-8" in left.pop(f"{jobs}/\\xff")
    [(deep, reason)] = left.items()
    assert deep == f"{jobs}/" + "d/" * (inventory.DEEPEST - 2)
    assert "100 folders deep" in reason
    assert f"left out: {jobs}/sparse: it is sparse" in err
    assert restored(tmp_path / "b", tmp_path / "other").difference.is_none


def make_nested(folder: Path, depth: int) -> None:
    """Make folders 'd' in each other, deeper than one path can name."""
    at = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)


def remove_nested(folder: Path, depth: int) -> None:
    """Remove what ``make_nested`` made: pytest's own removal is recursive."""
    at = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    for _ in range(depth):
        above = os.open("..", os.O_RDONLY, dir_fd=at)
        os.close(at)
        os.rmdir("d", dir_fd=above)
        at = above
    os.close(at)


@pytest.mark.parametrize(
    ("error", "reason"), [(errno.ENOENT, "it went meanwhile"), (errno.EACCES, "can't be read: Permission denied")]
)
def test_a_file_that_can_not_be_opened_is_left_out(
    settings: GatewaySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, reason: str
) -> None:
    opening = os.open

    def refuse(path: str, *arguments: int, **options: int) -> int:
        if path == "driver.log":
            raise OSError(error, os.strerror(error))
        return opening(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    made = make.backup(settings, tmp_path / "b", files=True, secrets=True, say=quiet)
    [left] = made.contents.left_out
    assert left.path == layout.job_log(TEAM, "j1")
    assert reason in left.reason
    assert made.contents.file_count == 3


def test_a_file_whose_reading_fails_midway_is_left_out(
    settings: GatewaySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    source = inventory._Source
    monkeypatch.setattr(inventory, "_Source", lambda file: source(Broken()))
    made = make.backup(settings, tmp_path / "b", files=True, secrets=True, say=quiet)
    assert len(made.contents.left_out) == 4
    assert all("can't be read" in left.reason for left in made.contents.left_out)
    assert restore.check(made.path, settings, say=quiet).difference.checked == 0


def test_a_secret_and_a_database_that_are_deleted_once_listed_count_as_absent(
    settings: GatewaySettings, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret, online = home.secrets / "teams" / f"{TEAM}.mlflow", home.feast / "online" / "growth.db"
    homes.sqlite(online, "delays", ["1"])
    listing, copying = make._secrets, make.databases.copy

    def list_then_delete(home: Home) -> list[Path]:
        listed = listing(home)
        secret.unlink()
        return listed

    def delete_then_copy(source: Path, target: Path) -> str | None:
        if source == online:
            online.unlink()
        return copying(source, target)

    monkeypatch.setattr(make, "_secrets", list_then_delete)
    monkeypatch.setattr(make.databases, "copy", delete_then_copy)
    made = make.backup(settings, tmp_path / "b", files=False, secrets=True, say=quiet)
    names = made.contents.members
    assert "home/secrets/signing.key" in names
    assert f"home/secrets/teams/{TEAM}.mlflow" not in names
    assert "home/feast/online/growth.db" not in names
    assert restore.check(made.path, settings, say=quiet).difference.is_none


def test_each_database_of_a_team_is_looked_at_just_before_it_is_copied(home: Home) -> None:
    folder = home.storage / TEAM / "feast"
    for name in ("a.db", "b.db"):
        homes.sqlite(folder / name, "delays", ["1"])
    looked_at = inventory.databases(home.storage, leave=unexpected)
    assert next(looked_at)[0] == f"{TEAM}/feast/a.db"
    (folder / "b.db").unlink()
    (folder / "b.db").symlink_to(home.database)
    assert list(looked_at) == []


def test_a_teams_registry_is_rewritten_before_it_is_in_the_storage_root(
    settings: GatewaySettings, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    homes.registry(home.storage / TEAM / "feast" / "registry.db", f"{home.storage}/data")
    homes.sqlite(home.storage / TEAM / "feast" / "odd.db", '"a""b"', ["1"])
    file = backup(settings, tmp_path / "b", files=True)
    volume, connect = tmp_path / "volume", restore.sqlite3.connect

    def connect_outside(path: Path) -> homes.sqlite3.Connection:
        assert not path.is_relative_to(volume), "a team may write there"
        return connect(path)

    with monkeypatch.context() as patch:
        patch.setattr(restore.sqlite3, "connect", connect_outside)
        restored(file, tmp_path / "other", root=f"file://{volume}")
    [(_, message)] = homes.rows(volume / TEAM / "feast" / "registry.db", "feature_views")
    assert homes.source_of(message) == f"{volume}/data/part-*.parquet"
    assert not (tmp_path / "other" / ".database").exists()


def test_a_database_that_changes_meanwhile_is_copied_as_of_one_instant(
    settings: GatewaySettings, home: Home, tmp_path: Path
) -> None:
    done = threading.Event()
    pairs = home.feast / "online" / "growth.db"
    homes.sqlite(pairs, "pairs", [])

    def write() -> None:
        with homes.closing(homes.sqlite3.connect(pairs, timeout=60)) as connection:
            while not done.is_set():
                with connection:
                    connection.executemany("INSERT INTO pairs VALUES (?)", [("a",), ("b",)])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        file = backup(settings, tmp_path / "b")
    finally:
        done.set()
        writer.join()
    restored(file, tmp_path / "other")
    count = len(homes.rows(tmp_path / "other" / "feast" / "online" / "growth.db", "pairs"))
    assert count > 0
    assert count % 2 == 0


def test_a_backup_without_secrets_has_none_and_its_restore_tells_the_consequences(
    settings: GatewaySettings, home: Home, tmp_path: Path
) -> None:
    file = backup(settings, tmp_path / "b", secrets=False)
    with zipfile.ZipFile(file) as members:
        names = members.namelist()
    assert not [name for name in names if "secrets" in name or "token" in name or "auth.db" in name]
    done = restored(file, tmp_path / "other")
    assert "hand out the new token" in done.notes[0]
    assert not (tmp_path / "other" / "token").exists()


@pytest.mark.parametrize("secrets", [True, False])
def test_the_numbers_of_the_teams_users_are_restored_with_and_without_secrets(
    settings: GatewaySettings, home: Home, tmp_path: Path, secrets: bool
) -> None:
    numbers = local_users.Numbers(teams={"u1": local_users.Numbered(team=TEAM, number=61184)})
    home.local_users.write_text(numbers.model_dump_json())
    file = backup(settings, tmp_path / "b", secrets=secrets)
    with zipfile.ZipFile(file) as members:
        order = members.namelist()
    assert order.index("store/objects.jsonl") < order.index("home/local-users.json")
    restored(file, tmp_path / "other")
    assert local_users.read(Home(tmp_path / "other")) == numbers


def rotate_during_copies(home: Home, monkeypatch: pytest.MonkeyPatch, *, times: int) -> None:
    """Change the password of MLflow's admin, in its file and in MLflow's users, before the next copies of the users."""
    users, copying, left = home.mlflow / "auth.db", make.databases.copy, iter(range(times))

    def rotate_then_copy(source: Path, target: Path) -> str | None:
        if source == users and (number := next(left, None)) is not None:
            write_secret(home.secrets / "mlflow-admin", f"rayplane-admin\nnew-{number}\n")
            users.unlink()
            homes.sqlite(users, "users", [f"new-{number}"])
        return copying(source, target)

    monkeypatch.setattr(make.databases, "copy", rotate_then_copy)


def test_the_password_and_the_users_of_mlflow_fit_when_it_is_rotated_during_a_backup(
    settings: GatewaySettings, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotate_during_copies(home, monkeypatch, times=2)
    file = backup(settings, tmp_path / "b")
    other = Home(tmp_path / "other")
    restored(file, other.path)
    assert (other.secrets / "mlflow-admin").read_text() == "rayplane-admin\nnew-1\n"
    assert homes.rows(other.mlflow / "auth.db", "users") == [("new-1",)]


def test_a_backup_gives_up_when_the_password_of_mlflow_changes_each_time(
    settings: GatewaySettings, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotate_during_copies(home, monkeypatch, times=100)
    with pytest.raises(Unavailable, match="changed during each of 5 copies"):
        backup(settings, tmp_path / "b")
    assert left_beside(tmp_path / "b") == ["source"]


def test_a_restore_says_of_which_instant_its_secrets_are(settings: GatewaySettings, tmp_path: Path) -> None:
    done = restored(backup(settings, tmp_path / "b"), tmp_path / "other")
    assert done.notes == [
        f"The secrets are those of {done.contents.made_at:%Y-%m-%d %H:%M:%S} UTC: rotate again what was rotated since."
    ]


def test_a_restore_refuses_a_home_that_is_not_empty_and_leaves_it_unchanged(
    settings: GatewaySettings, home: Home, tmp_path: Path
) -> None:
    file = backup(settings, tmp_path / "b")
    before = sorted(home.path.rglob("*"))
    with pytest.raises(Conflict, match="is not empty"):
        restored(file, home.path)
    assert sorted(home.path.rglob("*")) == before
    (tmp_path / "empty").mkdir()
    restored(file, tmp_path / "empty")


def test_a_restore_refuses_a_home_that_is_a_link_or_a_mount_point(
    settings: GatewaySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = backup(settings, tmp_path / "b")
    volume, link = tmp_path / "volume", tmp_path / "link"
    volume.mkdir()
    link.symlink_to(volume)
    with pytest.raises(InvalidInput, match="is a symbolic link"):
        restored(file, link)
    mounted = os.path.ismount
    monkeypatch.setattr(os.path, "ismount", lambda path: path == volume or mounted(path))
    with pytest.raises(InvalidInput, match="is a mount point"):
        restored(file, volume)
    assert left_beside(file) == ["b", "link", "source", "volume"]
    assert list(volume.iterdir()) == []


@pytest.mark.parametrize("place", ["data", "storage/data", ""])
def test_a_restore_refuses_a_storage_root_in_the_home_that_is_not_the_default_one(
    settings: GatewaySettings, tmp_path: Path, place: str
) -> None:
    file, other = backup(settings, tmp_path / "b", files=True), tmp_path / "other"
    with pytest.raises(InvalidInput, match="lies in the home") as refused:
        restored(file, other, root=f"file://{other / place}")
    assert f"file://{other}/storage" in str(refused.value.remedy)
    assert left_beside(file) == ["b", "source"]
    restored(file, other, root=f"file://{other}/storage")


@pytest.mark.parametrize("name", ["database_url", "workflow_database_url", "feast_registry_url"])
def test_a_restore_refuses_a_sqlite_database_in_the_home_that_is_not_at_its_default_place(
    settings: GatewaySettings, tmp_path: Path, name: str
) -> None:
    file, other = backup(settings, tmp_path / "b"), tmp_path / "other"
    changed = GatewaySettings(home=other).model_copy(update={name: f"sqlite:///{other}/mine.db"})
    with pytest.raises(InvalidInput, match=f"RAYPLANE_{name.upper()}"):
        restore.restore(file, changed, incomplete=False, say=quiet)
    assert left_beside(file) == ["b", "source"]


def test_each_damaged_byte_is_refused_before_anything_is_written(settings: GatewaySettings, tmp_path: Path) -> None:
    file = backup(settings, tmp_path / "b", files=True)
    whole = file.read_bytes()
    with zipfile.ZipFile(file) as members:
        places = {member.filename: _middle(member) for member in members.infolist()}
    assert {form.CONTENTS, form.INVENTORY, "home/token", "store/objects.jsonl", "files/00000001"} <= places.keys()
    for name, place in places.items():
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(InvalidData, match="damaged"):
            restored(file, tmp_path / "other")
        assert not (tmp_path / "other").exists(), name


def _middle(member: zipfile.ZipInfo) -> int:
    """Offset of the middle of a member's data in the file."""
    return member.header_offset + 30 + len(member.filename) + 20 + member.compress_size // 2


@pytest.mark.parametrize("cut", [0, 10, 1000, -1])
def test_a_truncated_backup_is_refused(settings: GatewaySettings, tmp_path: Path, cut: int) -> None:
    file = backup(settings, tmp_path / "b")
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(InvalidData, match="is no backup, or a damaged one"):
        restored(file, tmp_path / "other")


def test_a_backup_with_a_path_that_leads_out_of_the_home_is_refused(settings: GatewaySettings, tmp_path: Path) -> None:
    file = backup(settings, tmp_path / "b")
    evil = {"home/../../evil": {"size": 0, "sha256": "0"}}
    altered(file, members=evil)
    with pytest.raises(InvalidData, match="no backup has a file"):
        restored(file, tmp_path / "other")


def test_a_newer_form_or_schema_or_mlflow_is_refused_with_what_to_install(
    settings: GatewaySettings, tmp_path: Path
) -> None:
    file = backup(settings, tmp_path / "b")
    altered(file, form=form.FORM + 1, rayplane="99.0")
    with pytest.raises(Unsupported, match=r"Install rayplane 99\.0"):
        restored(file, tmp_path / "other")
    altered(file, form=form.FORM, mlflow="99.1.0")
    with pytest.raises(Unsupported, match=r"Install MLflow 99\.1\.0"):
        restored(file, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_missing_backup_and_a_missing_platform_are_errors(home: Home, tmp_path: Path, gateway_process: None) -> None:
    with pytest.raises(NotFound, match="There is no backup"):
        restored(tmp_path / "b", tmp_path / "other")
    settings = GatewaySettings(home=home.path)
    with pytest.raises(NotFound, match="There is no home"):
        backup(settings, tmp_path / "b")
    home.path.mkdir(parents=True)
    with pytest.raises(NotFound, match="holds no platform"):
        backup(settings, tmp_path / "b")
    assert left_beside(tmp_path / "b") == ["source"]
    assert not home.database.exists(), "looking at a home makes nothing in it"


def test_a_target_that_can_not_be_written_or_is_in_the_storage_root_is_refused(
    settings: GatewaySettings, home: Home, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match="can't be written"):
        backup(settings, tmp_path / "nowhere" / "b")
    with pytest.raises(InvalidInput, match="lies in the storage root"):
        backup(settings, home.storage / "b")


def test_a_full_disk_leaves_no_file(settings: GatewaySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(archive, "parts", full)
    with pytest.raises(StorageFull, match="No room left"):
        backup(settings, tmp_path / "b")
    assert left_beside(tmp_path / "b") == ["source"]


def test_a_backup_is_written_on_a_file_system_without_hard_links(
    settings: GatewaySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refused)
    assert restore.check(backup(settings, tmp_path / "b"), settings, say=quiet).difference.is_none
    assert left_beside(tmp_path / "b") == ["b", "source"]


def test_a_backup_ended_by_sigterm_leaves_no_file(
    settings: GatewaySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAYPLANE_HOME", str(settings.home))
    monkeypatch.setattr(make.child, "snapshot", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    try:
        code, _, err = run(capsys, "backup", "--to", str(tmp_path / "b"))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (code, err.splitlines()[-1]) == (130, "Interrupted.")
    assert left_beside(tmp_path / "b") == ["source"]


def test_a_restore_without_room_says_how_much_it_needs(
    settings: GatewaySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = backup(settings, tmp_path / "b")
    monkeypatch.setattr(restore.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2**40, 2**40, 2**20))
    with pytest.raises(StorageFull, match="1 MiB free, the restore needs"):
        restored(file, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_restore_that_fails_midway_leaves_no_home(
    settings: GatewaySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = backup(settings, tmp_path / "b")
    monkeypatch.setenv("RAYPLANE_DATABASE_URL", settings.store_url)
    with pytest.raises(Conflict, match="not empty"):
        restored(file, tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "source"]


def test_a_restore_is_refused_while_the_platform_of_the_backup_runs(
    settings: GatewaySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = backup(settings, tmp_path / "b")
    monkeypatch.setattr(restore.processes, "marked", lambda mark: [1] if mark == settings.home_paths.id else [])
    with pytest.raises(Conflict, match="rayplane down"):
        restored(file, tmp_path / "other")


def test_parts_in_separate_databases_are_listed_as_not_in_the_backup(settings: GatewaySettings, tmp_path: Path) -> None:
    elsewhere = settings.model_copy(update={"workflow_database_url": "postgresql://u:secret@db/workflows"})
    made = make.backup(elsewhere, tmp_path / "b", files=False, secrets=True, say=quiet)
    assert len(made.contents.outside) == 1
    assert "db/workflows" in made.contents.outside[0]
    assert "secret" not in made.contents.outside[0]
    assert "home/workflows.db" not in made.contents.databases


def test_the_commands_print_json_and_check_exits_by_its_result(
    settings: GatewaySettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    gateway_process: None,
) -> None:
    monkeypatch.setenv("RAYPLANE_HOME", str(settings.home))
    code, out, _ = run(capsys, "backup", "--to", str(tmp_path / "b"), "-o", "json")
    assert code == 0
    answer = json.loads(out)
    assert answer["path"] == str(tmp_path / "b")
    assert answer["store"]["tables"]["objects"]["rows"] == 2
    assert Contents.model_validate({**answer, "members": {}}).file_count == 4
    assert run(capsys, "restore", str(tmp_path / "b"), "--check")[0] == 0
    open_root(settings.root_uri).delete(layout.package(TEAM, homes.PACKAGE))
    code, out, err = run(capsys, "restore", str(tmp_path / "b"), "--check", "-o", "json")
    assert code == 5
    assert json.loads(out)["storage"]["missing"] == [layout.package(TEAM, homes.PACKAGE)]
    code, out, err = run(capsys, "restore", str(tmp_path / "b"), "--home", str(tmp_path / "other"))
    assert code == 5
    assert f"missing: {layout.package(TEAM, homes.PACKAGE)}" in err
    code, out, err = run(capsys, "restore", str(tmp_path / "b"), "--home", str(tmp_path / "other"), "--incomplete")
    assert code == 0
    assert "rayplane up" in err
