"""A local platform with RAYPLANE_LOCAL_USERS: a team's jobs run as a Unix user, and can't reach other files."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rayplane import processes
from rayplane.settings import Home
from tests.support import open_python
from tests.support.local_platform import LocalPlatform, local_platform, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root gives processes another user"),
]

TEAMS = ("alpha", "beta")
NORMAL = '''
"""A team's everyday work: runs, artifacts, a model, datasets, features, tasks."""
import json, os, stat, sys
import mlflow, pyarrow as pa, ray
from feast import Entity
from rayplane.runtime import datasets
from rayplane.runtime.features import project

class Model(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input):
        return model_input

@ray.remote
def whoami():
    open("of-a-task", "w").close()
    return {"uids": os.getresuid(), "gids": os.getresgid(), "groups": os.getgroups(),
            "mode": stat.S_IMODE(os.stat("of-a-task").st_mode), "home": os.environ["HOME"],
            "locked": [line.split()[1] for line in open("/proc/self/status") if line.startswith("NoNewPrivs")]}

ray.init()
facts = {"driver": os.getresuid(), "worker": ray.get(whoami.remote())}
with mlflow.start_run() as run:
    mlflow.log_metric("loss", 0.5)
    mlflow.log_text("words", "words.txt")
    mlflow.pyfunc.log_model(name="model", python_model=Model(), registered_model_name="echo")
    facts["artifact"] = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/words.txt")
table = pa.table({"x": [1, 2, 3]})
facts["version"] = datasets.publish("numbers", table).version
facts["rows"] = pa.parquet.read_table(datasets.path("numbers")).num_rows
project.store().apply([Entity(name="plane")])
facts["entities"] = [entity.name for entity in project.store().list_entities()]
print("FACTS", json.dumps(facts))
'''
SERVED = '''
"""A Serve application that answers with the uid of its process."""
import os
from ray import serve

@serve.deployment
class Whose:
    async def __call__(self, request):
        return {"uid": os.getuid()}

def build(args):
    return Whose.bind()
'''
HOSTILE = '''
"""Try actions that a team must not be able to do; report the outcome of each."""
import ctypes, glob, json, os, signal, socket, subprocess, sys

def tried(act):
    try:
        return f"DONE: {str(act())[:80]!r}"
    except OSError as exc:
        return type(exc).__name__
    except Exception as exc:
        return f"{type(exc).__name__}: {exc}"

def attach(pid):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(16, pid, 0, 0):  # PTRACE_ATTACH
        raise OSError(ctypes.get_errno(), "ptrace")

def become_root():
    os.setresuid(0, 0, 0)

asked = json.loads(sys.argv[1])
came = {}
for path in asked["read"]:
    came[f"read {path}"] = tried(lambda: open(path, "rb").read(10))
for path in asked["list"]:
    came[f"list {path}"] = tried(lambda: os.listdir(path))
for path in asked["write"]:
    came[f"write {path}"] = tried(lambda: open(os.path.join(path, "of-a-stranger"), "w").close())
for pid in asked["pids"]:
    came[f"signal {pid}"] = tried(lambda: os.kill(pid, signal.SIGCONT))
    came[f"attach {pid}"] = tried(lambda: attach(pid))
    came[f"environ {pid}"] = tried(lambda: open(f"/proc/{pid}/environ", "rb").read(10))
    came[f"memory {pid}"] = tried(lambda: open(f"/proc/{pid}/mem", "rb"))
    came[f"files {pid}"] = tried(lambda: os.listdir(f"/proc/{pid}/fd"))
came["become root"] = tried(become_root)
came["link a stranger's file"] = tried(lambda: os.link("/etc/shadow", "shadow"))
su = subprocess.run(["su", "-c", "true"], capture_output=True, stdin=subprocess.DEVNULL)
came["su"] = "DONE" if su.returncode == 0 else "Refused"
print("CAME", json.dumps(came))
'''
LINKS = '''
"""Put links at paths that the platform reads and writes."""
import os, sys
from rayplane.runtime import context, report
from rayplane.storage.root import relative

secret, mine = sys.argv[1:]
ctx = context.current()
report.output("before", 1)
report.flush()
folder = context.storage().local_path(relative(ctx.storage_root, ctx.job_uri))
print("the first words", flush=True)
for act in (
    lambda: os.unlink(f"{folder}/driver.log"),
    lambda: os.rename(f"{folder}/driver.log", f"{folder}/other.log"),
    lambda: open(f"{folder}/driver.log", "a").write("forged"),
    lambda: os.rename(folder, f"{folder}.away"),
    lambda: os.rename(os.path.dirname(folder), os.path.dirname(folder) + ".away"),
):
    try:
        act()
        print("DONE", act.__code__.co_consts, flush=True)
    except OSError as exc:
        print("refused", type(exc).__name__, flush=True)
os.symlink(secret, f"{folder}/record.json")
os.symlink(secret, f"{folder}/events/stolen.json")
os.mkfifo(f"{folder}/events/pipe.json")
os.symlink(mine, f"{folder}/../../packages.away")
print("the last words", flush=True)
'''


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that every user may enter."""
    made = Path(tempfile.mkdtemp(prefix="rp-test-users-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def platform(folder: Path) -> Iterator[LocalPlatform]:
    """A platform run by root, with two teams that have a cluster each."""
    own = open_python.install(folder)
    if not own.may_be_run_by_others():
        pytest.skip("other users can't enter the checkout")
    home = folder / "home"
    old = home / "storage" / "alpha" / "datasets" / "old"
    old.mkdir(parents=True)
    (old / "kept").write_text("of a time when all was root's")
    settings = {**own.variables, "RAYPLANE_LOCAL_USERS": "true"}
    with local_platform(home, settings, command=str(own.rayplane)) as made:
        with made.client as api:
            for team in TEAMS:
                api.teams.apply(team, spec={})
                api.clusters.apply(team, "dev", {})
            for team in TEAMS:
                api.clusters.reach(team, "dev", timeout=300)
        yield made
    assert processes.of_users(user(made.home, team) for team in TEAMS) == []


@pytest.fixture(scope="module")
def code(folder: Path) -> Path:
    """Folder of the teams' code."""
    made = folder / "code"
    made.mkdir()
    for name, text in (("normal", NORMAL), ("served", SERVED), ("hostile", HOSTILE), ("links", LINKS)):
        (made / f"{name}.py").write_text(text)
    return made


def test_the_platform_says_that_each_team_has_its_user(platform: LocalPlatform) -> None:
    with platform.client as api:
        assert api.info()["local_users"] is True
    assert platform.status()["local_users"] is True
    assert "a Unix user of each team" in platform.rayplane("status").stderr
    numbers = [user(platform.home, team) for team in TEAMS]
    assert len(set(numbers)) == len(TEAMS)
    assert all(1_879_048_192 <= number <= 1_879_113_727 for number in numbers)


def test_every_process_of_a_cluster_runs_as_its_teams_user_alone(platform: LocalPlatform) -> None:
    for team in TEAMS:
        head = head_of(platform, team)
        family = processes.marked(head["mark"])
        assert len(family) > 5
        assert {tuple(sorted(processes._users(pid))) for pid in family} == {(user(platform.home, team),)}


def test_a_normal_job_works_as_its_teams_user(platform: LocalPlatform, code: Path) -> None:
    done = platform.rayplane(
        *("job", "submit", "--team", "alpha", "--cluster", "dev", "--name", "normal"),
        *("--working-dir", str(code), "--", "python", "normal.py"),
    )
    facts = printed_json(done.stdout, "FACTS")
    number = user(platform.home, "alpha")
    assert facts["driver"] == [number] * 3
    assert facts["worker"] == {
        "uids": [number] * 3,
        "gids": [number] * 3,
        "groups": [],
        "mode": 0o600,
        "home": facts["worker"]["home"],
        "locked": ["1"],
    }
    assert facts["worker"]["home"].startswith(tempfile.gettempdir())
    assert (facts["artifact"], facts["rows"], facts["entities"]) == ("words", 3, ["plane"])
    with platform.client as api:
        job = api.jobs.get("alpha", "normal")
        assert api.datasets.version("alpha", "numbers").version == facts["version"]
    job_dir = platform.home.storage / "alpha" / "jobs" / job.metadata.uid
    assert "FACTS" in (job_dir / "driver.log").read_text()
    assert {(job_dir / name).stat().st_uid for name in ("driver.log", "record.json")} == {0}
    assert stat.S_IMODE((job_dir / "driver.log").stat().st_mode) == 0o640
    registry = platform.home.storage / "alpha" / "feast" / "registry.db"
    assert (registry.stat().st_uid, stat.S_IMODE(registry.stat().st_mode)) == (number, 0o600)


def test_a_service_answers_from_a_process_of_its_teams_user(platform: LocalPlatform, code: Path) -> None:
    with platform.client as api:
        package = api.packages.upload("alpha", code)
        spec = {"cluster": "dev", "model": "models:/echo/1", "app": "served:build", "package": package}
        api.services.apply("alpha", "whose", spec)
        api.services.wait("alpha", "whose", timeout=300)
        url = api.services.get("alpha", "whose").status["url"]
        assert httpx.post(url, json={}, timeout=60).json() == {"uid": user(platform.home, "alpha")}
        api.services.delete("alpha", "whose")
        api.services.wait_deleted("alpha", "whose")


def test_files_made_before_the_setting_was_on_belong_to_their_team_now(platform: LocalPlatform) -> None:
    number = user(platform.home, "alpha")
    old = platform.home.storage / "alpha" / "datasets" / "old"
    assert [(path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) for path in (old, old / "kept")] == [
        (number, 0o700),
        (number, 0o600),
    ]


def test_a_hostile_job_reaches_nothing_of_the_platform_or_of_another_team(platform: LocalPlatform, code: Path) -> None:
    home, theirs = platform.home, head_of(platform, "beta")
    secret = Path(theirs["temp_dir"]).parent / "s"
    (home.storage / "beta" / "datasets").mkdir(exist_ok=True)
    reads = [
        *(home.token, home.database, home.path / "workflows.db", home.state, home.local_users, home.path / "up.lock"),
        *(home.mlflow / "mlflow.db", home.mlflow / "auth.db", home.secrets / "mlflow-admin"),
        *(home.secrets / "teams" / "beta.mlflow", theirs["token_path"], secret / "RAY_AUTH_TOKEN_PATH"),
        *(secret / "RAYPLANE_TOKEN_PATH", home.logs / "gateway.log", "/etc/shadow"),
    ]
    assert [path for path in reads if not Path(path).exists()] == []
    folders = [
        *(home.path, home.secrets, home.logs, home.processes, home.mlflow, home.feast, home.storage),
        *(home.storage / "beta", home.storage / "beta" / "datasets", home.storage / "mlflow"),
        *(secret, secret.parent, theirs["temp_dir"], Path(theirs["temp_dir"]).parents[1]),
    ]
    asked = {
        "read": [str(path) for path in reads],
        "list": [str(path) for path in folders],
        "write": [str(path) for path in folders] + [str(home.storage / "alpha" / "packages")],
        "pids": [theirs["pid"], platform.process("gateway")["pid"], platform.process("mlflow")["pid"]],
    }
    done = platform.rayplane(
        *("job", "submit", "--team", "alpha", "--cluster", "dev", "--working-dir", str(code)),
        *("--", "python", "hostile.py", json.dumps(asked)),
    )
    came = printed_json(done.stdout, "CAME")
    assert len(came) == sum(map(len, asked.values())) + 4 * len(asked["pids"]) + 3
    assert {what: how for what, how in came.items() if how not in ("PermissionError", "Refused")} == {}


def test_the_platform_does_not_follow_links_that_a_job_plants(
    platform: LocalPlatform, code: Path, folder: Path
) -> None:
    secret = folder / "secret"
    secret.write_text('{"id": "stolen"}')
    secret.chmod(0o600)
    done = platform.rayplane(
        *("job", "submit", "--team", "alpha", "--cluster", "dev", "--name", "links"),
        *("--working-dir", str(code), "--", "python", "links.py", str(secret), "/etc"),
    )
    assert "DONE" not in done.stdout
    assert done.stdout.count("refused PermissionError") == 5
    with platform.client as api:
        job = api.jobs.get("alpha", "links")
        assert "the last words" in "".join(api.jobs.logs("alpha", "links"))
    job_dir = platform.home.storage / "alpha" / "jobs" / job.metadata.uid
    assert job.status["phase"] == "Succeeded"
    until(lambda: not (job_dir / "record.json").is_symlink(), seconds=60, what="the record is the platform's own file")
    assert secret.read_text() == '{"id": "stolen"}'
    assert json.loads((job_dir / "record.json").read_text())["metadata"]["name"] == "links"
    assert "goes over a symbolic link" in str(job.status["conditions"])


def test_a_process_that_escapes_its_clusters_end_ends_with_its_teams_last_cluster(
    platform: LocalPlatform, folder: Path
) -> None:
    hidden = "setsid env -i sleep 1000 >/dev/null 2>&1 </dev/null &"
    number = user(platform.home, "beta")
    for team in TEAMS:  # alpha's cluster is left for 'down' to stop
        platform.rayplane("job", "submit", "--team", team, "--cluster", "dev", "--", "sh", "-c", hidden)
    platform.rayplane("cluster", "delete", "dev", "--team", "beta")
    with platform.client as api:
        api.clusters.wait_deleted("beta", "dev")
    assert processes.of_users([number]) == []
    assert list(Path(tempfile.gettempdir()).glob(f"rp-{platform.home.id}-u/*")) != []  # alpha's cluster goes on


def user(home: Home, team: str) -> int:
    """The uid of a team's user."""
    known = json.loads(home.local_users.read_text())["teams"].values()
    return next(int(entry["number"]) for entry in known if entry["team"] == team)


def head_of(platform: LocalPlatform, team: str) -> dict[str, Any]:
    """The process record of the head of a team's cluster."""
    paths = (platform.home.processes / "clusters").glob("*.json")
    return next(record for path in paths if (record := json.loads(path.read_text()))["team"] == team)


def printed_json(output: str, word: str) -> dict[str, Any]:
    """The JSON that a job printed on the line that begins with ``word``."""
    line = next(line for line in output.splitlines() if line.startswith(f"{word} "))
    answer: dict[str, Any] = json.loads(line.removeprefix(f"{word} "))
    return answer
