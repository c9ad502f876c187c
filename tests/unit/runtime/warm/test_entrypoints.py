"""Entrypoints forked from a warm interpreter behave as in a plain start, isolated from each other. Real processes."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from rayplane.runtime.warm import head
from tests.support.warm import IS_WARM, WAIT, Warm, environment
from tests.unit.runtime.conftest import WorkerGateway

pytestmark = pytest.mark.slow


def until(so: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT
    while not so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def run(
    command: Sequence[str | Path], env: Mapping[str, str], cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=WAIT, check=False)


def plain(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], env=environment(), cwd=cwd, capture_output=True, text=True, check=False
    )


def readable(data: bytes) -> bytes:
    """A file's content, decompressed if it is compressed, since the compressed header has the time."""
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


# Behaviour equal to that of a plain start.


def test_an_entrypoint_has_the_libraries_imported_but_not_ray(warm: Warm) -> None:
    printed = warm.code(
        "import sys; print([m in sys.modules for m in ('pandas', 'mlflow', 'xgboost', 'feast', 'ray')])"
    )
    assert printed == "[True, True, True, True, False]"


@pytest.mark.parametrize("how", ["module", "script", "code"])
def test_argv_path_and_main_are_those_of_a_plain_start(warm: Warm, tmp_path: Path, how: str) -> None:
    code = (
        "import json, sys, os\n"
        "print(json.dumps([sys.argv, sys.path, __name__, globals().get('__file__'), sys.executable, os.getcwd(),"
        " sys.modules['__main__'].__dict__ is globals(), __spec__ and __spec__.name, sys.flags.safe_path]))\n"
    )
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").touch()
    (tmp_path / "pkg" / "job.py").write_text(code)
    arguments = {"module": ["-m", "pkg.job"], "script": ["pkg/job.py"], "code": ["-c", code]}[how]
    odd = ["--day", "", "a b", "x; y", "`z`", "{'a': {'b': 1}}", "€", "line\nbreak"]
    mine = warm.run(*arguments, *odd, cwd=tmp_path)
    assert mine.returncode == 0, mine.stderr
    assert json.loads(mine.stdout) == json.loads(plain(*arguments, *odd, cwd=tmp_path).stdout)


@pytest.mark.parametrize(
    "code",
    [
        "pass",
        "raise SystemExit(3)",
        "import sys; sys.exit('words')",
        "import os; os._exit(7)",
        "raise ValueError('boom')",
        "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "raise KeyboardInterrupt",
        "def broken(:",
        "import atexit; atexit.register(print, 'bye'); print('hi')",
        "import threading, time; threading.Thread(target=lambda: (time.sleep(0.2), print('late'))).start()",
        "import sys; sys.stdout.write('no line end'); sys.stderr.write('err')",
        "import sys; print(sys.stdin.read() == '', sys.stdin.seekable())",
        "out = open('left', 'w'); out.write('data')",
        "import gzip; out = gzip.open('left', 'wt'); out.write('data')",
        "class Last:\n    def __del__(self): print('deleted')\nlast = Last()",
        "def f(x: int): pass\nprint(f.__annotations__)",
        "import sys; print(sys.orig_argv[1:])",
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        "out = open('left', 'w'); out.write('data')",
    ],
)
def test_an_entrypoint_prints_and_exits_as_in_a_plain_start(warm: Warm, tmp_path: Path, code: str) -> None:
    (tmp_path / "job.py").write_text(code)
    ends = []
    for start in (warm.run, plain):
        done = start("job.py", cwd=tmp_path)
        file = tmp_path / "left"
        ends.append((done, readable(file.read_bytes()) if file.exists() else None))
        file.unlink(missing_ok=True)
    (mine, written), (other, written_plain) = ends
    assert (mine.returncode, mine.stdout, written) == (other.returncode, other.stdout, written_plain)
    if "ValueError" in code or "broken" in code:
        assert mine.stderr == other.stderr


def test_a_missing_module_gives_pythons_own_error(warm: Warm, tmp_path: Path) -> None:
    mine = warm.run("-m", "nowhere", cwd=tmp_path)
    assert mine.returncode == 1
    assert "No module named nowhere" in mine.stderr


def test_warnings_are_shown_as_a_plain_start_shows_them(warm: Warm, tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text("import warnings\nwarnings.warn('old', DeprecationWarning)\n")
    (tmp_path / "job.py").write_text("import other, warnings\nwarnings.warn('mine', DeprecationWarning)\n")
    mine, other = warm.run("job.py", cwd=tmp_path), plain("job.py", cwd=tmp_path)
    assert "mine" in mine.stderr
    assert mine.stderr == other.stderr


def test_processes_started_by_an_entrypoint_use_a_plain_python(warm: Warm) -> None:
    inner = f"subprocess.run(['python', '-c', {IS_WARM!r}], capture_output=True, text=True)"
    assert warm.code(f"import subprocess; print({inner}.stdout)") == "False"


def test_multiprocessing_by_spawn_and_fork_works_in_an_entrypoint(warm: Warm, tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(
        "import multiprocessing as m\n"
        "def twice(x): return 2 * x\n"
        "if __name__ == '__main__':\n"
        "    for how in ('spawn', 'fork'):\n"
        "        with m.get_context(how).Pool(2) as pool: print(pool.map(twice, [1, 2]))\n"
    )
    assert warm.run("job.py", cwd=tmp_path).stdout == "[2, 4]\n[2, 4]\n"


def test_the_libraries_work_after_the_fork(warm: Warm) -> None:
    printed = warm.code(
        "import numpy as np, pandas as pd, pyarrow as pa, pyarrow.parquet as pq, duckdb, xgboost, io\n"
        "frame = pd.DataFrame({'a': np.arange(1000), 'b': np.arange(1000) % 2})\n"
        "file = io.BytesIO(); pq.write_table(pa.Table.from_pandas(frame), file)\n"
        "rows = pq.read_table(file)\n"
        "total = duckdb.sql('select sum(a) from rows').fetchall()[0][0]\n"
        "model = xgboost.train({'nthread': 2}, xgboost.DMatrix(frame[['a']], frame['b']), 2)\n"
        "print(total, model.num_boosted_rounds())"
    )
    assert printed == "499500 2"


def test_a_signal_that_the_parent_ignores_stays_ignored(warm: Warm, tmp_path: Path) -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGHUP); print(signal.getsignal(signal.SIGHUP).name)"
    for options in ([], ["-O"]):  # with -O the shim makes a plain start
        done = run(["nohup", warm.python, *options, "-c", code], warm.environment())
        assert (done.returncode, done.stdout) == (0, "SIG_IGN\n")


def test_folders_of_pythonpath_are_searched_as_a_plain_start_searches_them(warm: Warm, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    code = "import json, sys; print(json.dumps(sys.path))"
    environment = {"PYTHONPATH": "src:/nowhere::src"}
    mine = warm.run("-c", code, env=environment, cwd=tmp_path)
    other = run([sys.executable, "-c", code], warm.environment(**environment), cwd=tmp_path)
    assert json.loads(mine.stdout) == json.loads(other.stdout)


def test_processes_that_a_job_leaves_in_its_group_end_with_the_job(warm: Warm) -> None:
    code = "import subprocess; print(subprocess.Popen(['sleep', '600'], stdout=-3, stderr=-3).pid)"
    done = warm.run("-c", code)
    assert done.returncode == 0
    until(lambda: not alive(int(done.stdout)))


# Commands that need a plain start.


@pytest.mark.parametrize("prefix", [["nice", "-n", "5"], ["taskset", "-c", "0"], ["prlimit", "--nofile=512:512"]])
def test_a_start_with_limits_or_a_priority_of_its_own_is_plain_and_has_them(warm: Warm, prefix: list[str]) -> None:
    code = "import os, resource as r; print(os.nice(0), len(os.sched_getaffinity(0)), r.getrlimit(r.RLIMIT_NOFILE)[0])"
    mine = run([*prefix, warm.python, "-c", f"{IS_WARM}; {code}"], warm.environment())
    other = run([*prefix, sys.executable, "-c", code], environment())
    assert mine.stdout == f"False\n{other.stdout}"


def test_inherited_open_files_get_a_plain_start(warm: Warm) -> None:
    code = f"{warm.python} -c 'import sys; print(open(sys.argv[1]).read())' <(echo handed)"
    done = run(["bash", "-c", code], warm.environment())
    assert (done.returncode, done.stdout) == (0, "handed\n\n")


def test_a_zip_application_gets_a_plain_start(warm: Warm, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "app.pex", "w") as archive:
        archive.writestr("__main__.py", "print('from a zip')")
    assert warm.run("app.pex", cwd=tmp_path).stdout == "from a zip\n"


def test_if_the_warm_interpreter_can_not_fork_the_start_is_plain(tmp_path: Path, warm: Warm) -> None:
    python = head.make_shim(tmp_path)
    assert python is not None
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / head.SOCKET))
        listener.listen()
        thread = threading.Thread(target=lambda: listener.accept()[0].close())
        thread.start()
        done = run([python, "-c", "print('ran')"], warm.environment())
        assert (done.returncode, done.stdout) == (0, "ran\n")
        thread.join(WAIT)


@pytest.mark.parametrize("variable", ["PYTHONHASHSEED", "OMP_NUM_THREADS", "LC_ALL"])
def test_another_environment_gets_a_plain_start(warm: Warm, variable: str) -> None:
    value = {"LC_ALL": "C.UTF-8"}.get(variable, "2")
    assert warm.code(f"{IS_WARM}; import os; print(os.environ['{variable}'])", **{variable: value}) == f"False\n{value}"


def test_a_job_with_a_file_named_as_a_library_imports_its_own_file(warm: Warm, tmp_path: Path) -> None:
    (tmp_path / "yaml.py").write_text("mine = True")
    (tmp_path / "job.py").write_text("import yaml; print(yaml.mine)")
    done = warm.run("job.py", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "True\n")


def test_options_of_python_get_a_plain_start(warm: Warm) -> None:
    assert warm.run("-O", "-c", f"{IS_WARM}; print(__debug__)").stdout == "False\nFalse\n"


def test_without_a_warm_interpreter_each_start_is_plain(tmp_path: Path, warm: Warm) -> None:
    python = head.make_shim(tmp_path)
    assert python is not None
    done = subprocess.run(
        [python, "-c", f"{IS_WARM}; print('ran')"],
        env=warm.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "False\nran\n")


# Isolation of jobs from each other.


def test_jobs_share_no_module_state_environment_folder_or_patch(warm: Warm, tmp_path: Path) -> None:
    warm.code(
        "import os, sys, json, pandas, logging\n"
        "os.environ['LEFT'] = 'here'; os.chdir('/'); pandas.left = 1; json.dumps = None; sys.path.insert(0, '/left')\n"
        "sys.modules['left'] = sys; logging.disable(50); os.umask(0)"
    )
    printed = warm.run(
        "-c",
        "import os, sys, json, pandas, logging\n"
        "print(json.dumps(['LEFT' in os.environ, hasattr(pandas, 'left'), '/left' in sys.path, 'left' in sys.modules,"
        " logging.root.manager.disable, os.umask(0), os.getcwd()]))",
        cwd=tmp_path,
    ).stdout
    umask = os.umask(0)
    os.umask(umask)
    assert json.loads(printed) == [False, False, False, False, 0, umask, str(tmp_path)]


def test_a_job_begins_with_its_standard_streams_and_one_thread(warm: Warm) -> None:
    warm.code(
        "import threading, time; left = open('/proc/version');"
        " threading.Thread(target=time.sleep, args=(60,), daemon=True).start()"
    )
    printed = warm.code(
        "import os; fds = os.listdir('/proc/self/fd'); print(sorted(map(int, fds))[:3], len(fds),"
        " len(os.listdir('/proc/self/task')))"
    )
    assert printed == "[0, 1, 2] 4 1"  # the fourth is of the listing itself


def test_random_state_differs_between_jobs_and_a_seed_means_what_it_means_elsewhere(warm: Warm) -> None:
    code = (
        "import random, uuid, tempfile, numpy, multiprocessing, secrets\n"
        "print([random.random(), numpy.random.rand(), numpy.random.default_rng().random(), uuid.uuid4().hex,"
        " tempfile.mktemp(), multiprocessing.current_process().authkey.hex(), secrets.token_hex()])"
    )
    first, second = (re.findall(r"[^\[\], ]+", warm.code(code)) for _ in range(2))
    assert len(first) == 7
    assert not set(first) & set(second)
    seeded = "import random, numpy; random.seed(7); numpy.random.seed(7); print(random.random(), numpy.random.rand())"
    assert warm.code(seeded) == plain("-c", seeded).stdout.strip()


def test_a_job_that_kills_its_parent_ends_only_itself(warm: Warm) -> None:
    other = warm.start("-c", "import time; print('on', flush=True); time.sleep(60)")
    assert other.stdout is not None
    assert other.stdout.readline() == "on\n"
    done = warm.run("-c", "import os, signal, time; os.kill(os.getppid(), signal.SIGKILL); time.sleep(60)")
    assert done.returncode == -signal.SIGKILL
    assert other.poll() is None
    assert warm.code("print('still warm')") == "still warm"
    other.kill()
    other.communicate(timeout=WAIT)


def test_a_jobs_environment_never_reaches_the_warm_interpreter(warm: Warm) -> None:
    secret = os.urandom(16).hex()
    half = len(secret) // 2
    code = f"import os; print(os.environ['S'] == '{secret[:half]}' + '{secret[half:]}')"
    assert warm.code(code, S=secret) == "True"
    assert secret.encode() not in memory(warm.process.pid)


def memory(pid: int) -> bytes:
    """The content of a process' writable memory."""
    contents = bytearray()
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb") as mem:
        for line in maps:
            span, mode = line.split()[:2]
            start, end = (int(part, 16) for part in span.split("-"))
            if mode.startswith("rw") and "[v" not in line:
                mem.seek(start)
                contents += mem.read(end - start)
    return bytes(contents)


# Signals, and processes that are left.


def test_a_signal_that_does_not_end_the_job_reaches_only_its_entrypoint(warm: Warm) -> None:
    process = warm.start(
        "-c",
        "import signal, subprocess, time\n"
        "child = subprocess.Popen(['sleep', '600'], stdout=-3, stderr=-3)\n"
        "saved = []\n"
        "signal.signal(signal.SIGUSR1, lambda *_: saved.append(1))\n"
        "print('on', flush=True)\n"
        "while not saved: time.sleep(0.05)\n"
        "print('saved', child.poll(), flush=True); child.kill()",
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "on\n"
    process.send_signal(signal.SIGUSR1)
    out, _ = process.communicate(timeout=WAIT)
    assert (process.returncode, out) == (0, "saved None\n")


def test_a_signal_that_ends_the_job_reaches_its_descendants_too(warm: Warm, tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(
        "import signal, subprocess, sys, time\n"
        "child = subprocess.Popen(['sleep', '60'], start_new_session=True)\n"
        "def end(number, frame):\n"
        "    open('ended', 'w').write(str(number)); sys.exit(5)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "print(child.pid, flush=True); time.sleep(60)\n"
    )
    process = warm.start("job.py", cwd=tmp_path)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=WAIT)
    assert process.returncode == 5
    assert (tmp_path / "ended").read_text() == str(int(signal.SIGTERM))
    assert not alive(child)


def test_a_job_whose_shim_is_killed_is_killed_with_its_descendants(warm: Warm) -> None:
    process = warm.start(
        "-c",
        "import os, signal, subprocess, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen(['sh', '-c', 'trap \"\" TERM; sleep 60 & wait'], start_new_session=True)\n"
        "print(os.getpid(), child.pid, flush=True); time.sleep(60)",
    )
    assert process.stdout is not None
    pids = [int(pid) for pid in process.stdout.readline().split()]
    process.kill()
    process.communicate(timeout=WAIT)
    until(lambda: not any(alive(pid) for pid in pids))


def test_a_job_that_is_asked_to_end_waits_until_its_descendants_have_ended(warm: Warm) -> None:
    process = warm.start(
        "-c",
        "import subprocess, time\n"
        "child = subprocess.Popen(['sh', '-c', 'trap \"sleep 0.5; exit\" TERM; while :; do sleep 0.1; done'],"
        " start_new_session=True)\n"
        "print(child.pid, flush=True); time.sleep(60)",
    )
    assert process.stdout is not None
    child = int(process.stdout.readline())
    time.sleep(0.2)  # let the shell set its trap
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=WAIT)
    assert process.returncode == -signal.SIGTERM
    assert not alive(child)


def test_only_its_user_reaches_the_interpreter_and_it_is_no_larger_than_its_libraries(warm: Warm) -> None:
    status = Path(f"/proc/{warm.process.pid}/status").read_text()
    assert int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) < 600 * 1024
    assert (warm.folder / head.SOCKET).stat().st_uid == os.geteuid()
    assert warm.folder.stat().st_mode & 0o077 == 0


def test_the_gateway_gets_one_event_with_its_id_for_the_end_of_an_attempt(warm: Warm, gateway: WorkerGateway) -> None:
    environment = {
        "RAYPLANE_GATEWAY_URL": gateway.url,
        "RAYPLANE_TOKEN_PATH": os.environ["RAYPLANE_TOKEN_PATH"],
        "RAYPLANE_SUBMISSION_ID": "uid1-1",
    }
    assert warm.run("-c", "raise SystemExit(3)", env=environment).returncode == 3
    until(gateway.events)
    (event,) = gateway.events()
    assert (event["type"], event["submission_id"], event["data"]) == ("attempt.ended", "uid1-1", {})


def test_an_attempt_ends_normally_if_the_gateway_is_down(warm: Warm, gateway: WorkerGateway) -> None:
    environment = {
        "RAYPLANE_GATEWAY_URL": "http://127.0.0.1:1",
        "RAYPLANE_TOKEN_PATH": os.environ["RAYPLANE_TOKEN_PATH"],
        "RAYPLANE_SUBMISSION_ID": "uid1-1",
    }
    assert warm.run("-c", "print('ran')", env=environment).stdout == "ran\n"
    assert gateway.events() == []
