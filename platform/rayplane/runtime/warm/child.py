"""Turn a forked child into the commanded process: set streams, environment, search path, random state; run the code."""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib.util
import io
import os
import random
import re
import runpy
import signal
import sys
import tempfile
import threading
import types
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any, NoReturn

from rayplane.runtime.warm import rules
from rayplane.runtime.warm.rules import NotWarm, Run, Worker

_run_as_main: Callable[[str], object] = vars(runpy)["_run_module_as_main"]  # the function that python -m itself calls
PYTHONS = (sys.executable, os.path.realpath(sys.executable))
"""Paths by which Ray may name this interpreter for a worker."""
Request = Mapping[str, Any]
"""Request of the shim: kind, arguments, environment, folder, umask, group, blocked and ignored signals."""


class Baseline:
    """State of the warm interpreter once its libraries are imported, from which all children start."""

    def __init__(self, environment: Mapping[str, str], path: Sequence[str]) -> None:
        self.environment = dict(environment)
        self.python_path = rules.python_path(environment.get("PYTHONPATH", ""), os.getcwd())
        """Folders in the node's own PYTHONPATH."""
        self.added = {name: value for name, value in os.environ.items() if name not in environment}
        """Environment variables that libraries set at import."""
        self.base_path = [folder for folder in path if folder not in self.python_path]
        self.modules = frozenset(sys.modules)
        self.loaded = frozenset(name.partition(".")[0] for name in sys.modules)
        self.installed = _installed(self.base_path)
        objects = gc.get_objects()
        self.generators = [item for item in objects if type(item) is random.Random]
        numpy = sys.modules.get("numpy")
        kind = numpy.random.RandomState if numpy is not None else ()
        self.numpy_generators = [item for item in objects if isinstance(item, kind)]

    def check_installed(self) -> None:
        """Raise NotWarm if packages were installed or removed since the libraries were imported."""
        if _installed(self.base_path) != self.installed:
            raise NotWarm("other packages are installed since")


def prepare_run(request: Request, baseline: Baseline) -> Run:
    """Parse the command and set its environment; raises NotWarm if a fork would behave unlike a plain start."""
    run = rules.parse(request["arguments"])
    _set_environment(request["environment"], baseline)
    first = folder = os.fsdecode(request["folder"])
    if run.how == "script":
        script = Path(folder, run.target)
        if not script.is_file() or script.suffix == ".pyc" or zipfile.is_zipfile(script):
            raise NotWarm("the script is no file of source")
        first = str(script.resolve().parent)
    _check(first, folder, baseline)
    return run


def prepare_worker(request: Request, baseline: Baseline) -> Worker:
    """Parse a worker's command and set its environment; raises NotWarm as ``prepare_run`` does."""
    worker = rules.parse_worker(request["arguments"], python=PYTHONS, default_worker=_default_worker())
    _set_environment(request["environment"], baseline)
    for name, value in worker.variables.items():  # expanded as by Ray's update_envs
        os.environ[name] = re.sub(r"\$\{[A-Z0-9_]+\}", "", os.path.expandvars(value))
    folder = worker.folder or os.fsdecode(request["folder"])
    _check(folder, folder, baseline)
    return worker


def check_process(pid: int) -> None:
    """Raise NotWarm if the shim's process has other limits, priority, CPUs, privileges or namespaces than this one.

    A plain start would inherit the shim's.
    """
    if _attributes(pid) != _attributes(os.getpid()):
        raise NotWarm("limits, priority, processors, rights or namespaces of its own")


def _attributes(pid: int) -> list[object]:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    shown = [line for line in status if line.startswith(("Cpus_allowed:", "NoNewPrivs:", "CapEff:", "Gid:", "Groups:"))]
    spaces = [os.readlink(f"/proc/{pid}/ns/{name}") for name in ("mnt", "net", "pid", "user", "uts", "ipc")]
    root, niceness = os.readlink(f"/proc/{pid}/root"), os.getpriority(os.PRIO_PROCESS, pid)
    return [Path(f"/proc/{pid}/limits").read_text(), shown, spaces, root, niceness]


def _default_worker() -> str:
    ray = importlib.util.find_spec("ray")
    if ray is None or ray.origin is None:
        raise NotWarm("Ray is not installed")
    return str(Path(ray.origin).parent / "_private" / "workers" / "default_worker.py")


def take_over(request: Request, streams: Sequence[int]) -> None:
    """Apply the request's streams, folder, umask and signal settings to this process."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        if stream > 2:
            os.close(stream)
    os.umask(request["umask"])
    os.chdir(request["folder"])
    for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in request["ignored"]:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, request["blocked"])


def join_group(group: int) -> None:
    """Join the shim's process group, which the raylet created for the worker and kills with it."""
    try:
        os.setpgid(0, group)
    except OSError:  # the group is in another session or gone: make an own group
        os.setpgid(0, 0)


def run_worker(worker: Worker, baseline: Baseline) -> NoReturn:
    """Run as Ray's worker process; never returns."""
    _reset_process_state(baseline)
    if worker.folder is not None:
        os.chdir(worker.folder)
    first = str(Path(worker.script).parent)
    sys.path[:] = rules.search_path(first, os.environ.get("PYTHONPATH", ""), baseline.base_path, os.getcwd())
    sys.argv[:] = [worker.script, *worker.arguments]
    _show_command(sys.argv)
    _run_and_exit(lambda: _run_script(worker.script), baseline)


def run_entrypoint(run: Run, baseline: Baseline) -> NoReturn:
    """Run the command as ``python`` would, and exit as it would."""
    _reset_process_state(baseline)
    first = {"module": os.getcwd(), "code": "", "script": str(Path(run.target).resolve().parent)}[run.how]
    sys.path[:] = rules.search_path(first, os.environ.get("PYTHONPATH", ""), baseline.base_path, os.getcwd())
    option = {"module": ["-m"], "code": ["-c"], "script": []}[run.how]
    _show_command([*option, run.target, *run.arguments])
    if run.how == "module":
        sys.argv[:] = ["-m", *run.arguments]
        _new_main()
        _run_and_exit(lambda: _run_as_main(run.target), baseline)
    if run.how == "code":
        sys.argv[:] = ["-c", *run.arguments]
        namespace = _new_main().__dict__
        _run_and_exit(lambda: exec(compile(run.target, "<string>", "exec", dont_inherit=True), namespace), baseline)  # noqa: S102  as -c does
    sys.argv[:] = [run.target, *run.arguments]
    _run_and_exit(lambda: _run_script(run.target), baseline)


def _run_script(path: str) -> None:
    path = os.path.join(os.getcwd(), path)  # since Python 3.9 __file__ of a script is absolute
    source = Path(path).read_bytes()
    main = _new_main()
    main.__file__ = path
    main.__loader__ = SourceFileLoader("__main__", path)
    exec(compile(source, path, "exec", dont_inherit=True), main.__dict__)  # noqa: S102  as python does


def _new_main() -> types.ModuleType:
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = sys.modules["builtins"]
    vars(main)["__annotations__"] = {}
    sys.modules["__main__"] = main
    return main


def _run_and_exit(act: Callable[[], object], baseline: Baseline) -> NoReturn:
    """Run ``act`` and exit as an interpreter does, showing exceptions without the frames of this module.

    Does what a program may rely on at exit: joins threads, runs exit functions, clears its own modules, closes its
    files. Libraries' modules are not cleared: that would copy most of the shared memory, and take 0.6 s.
    """
    code, interrupted = 0, False
    try:
        act()
    except SystemExit as exc:
        code = _exit_code(exc.code)
    except BaseException as exc:  # noqa: BLE001  an interpreter shows any exception and exits
        exc.__traceback__ = _without_frames_here(exc.__traceback__)
        sys.excepthook(type(exc), exc, exc.__traceback__)
        code, interrupted = 1, isinstance(exc, KeyboardInterrupt)
    try:
        threading._shutdown()  # type: ignore[attr-defined]
    except BaseException as exc:  # noqa: BLE001  an interpreter shows it and goes on with its exit
        sys.excepthook(type(exc), exc, exc.__traceback__)
    atexit._run_exitfuncs()
    _clear_own_modules(baseline)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # the stream is closed or replaced, or its reader is gone
            stream.flush()
    ctypes.CDLL(None).fflush(None)
    if interrupted:  # python ends by SIGINT after a KeyboardInterrupt
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code)


def _clear_own_modules(baseline: Baseline) -> None:
    """Clear the job's own modules and flush its files, as an interpreter's exit does, so that finalizers run."""
    if threading.active_count() == 1:  # otherwise a thread that still runs would lose its module
        own = [module for name, module in list(sys.modules.items()) if name not in baseline.modules]
        own = [module for module in own if not _is_installed(module, baseline)]
        main = sys.modules["__main__"]
        for module in [*(module for module in reversed(own) if module is not main), main]:
            vars(module).clear()
        gc.collect()
    for item in gc.get_objects():  # the libraries' objects are frozen, hence not listed
        if issubclass(type(item), io.IOBase):
            with suppress(Exception):
                item.flush()


def _is_installed(module: types.ModuleType, baseline: Baseline) -> bool:
    file = getattr(module, "__file__", None)
    return not file or any(file.startswith(f"{folder}/") for folder in baseline.base_path)


def _exit_code(code: object) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)
    return 1


def _without_frames_here(traceback: types.TracebackType | None) -> types.TracebackType | None:
    while traceback is not None and traceback.tb_frame.f_code.co_filename == __file__:
        traceback = traceback.tb_next
    return traceback


def _show_command(arguments: Sequence[str]) -> None:
    """Make ``ps``, Ray's list of drivers and ``sys.orig_argv`` show the command instead of the warm interpreter's."""
    sys.orig_argv[:] = [sys.executable, *arguments]
    with suppress(OSError, ValueError):
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        start, end = int(fields[45]), int(fields[46])  # arg_start and arg_end of proc(5)
        text = "\0".join(sys.orig_argv).encode(errors="surrogateescape")[: end - start - 1]
        ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)


def _reset_process_state(baseline: Baseline) -> None:
    """Reset state that must differ between processes: random state, multiprocessing's key, temporary folder, stdin."""
    for generator in baseline.generators:
        generator.seed()
    for generator in baseline.numpy_generators:
        generator.seed()
    multiprocessing = sys.modules.get("multiprocessing.process")
    if multiprocessing is not None:
        multiprocessing.current_process().authkey = os.urandom(32)
        vars(multiprocessing)["ORIGINAL_DIR"] = os.getcwd()
    tempfile.tempdir = None
    with suppress(OSError):
        stdin = open(0, encoding=sys.stdin.encoding, errors=sys.stdin.errors, closefd=False)  # noqa: SIM115
        vars(sys).update(stdin=stdin, __stdin__=stdin)
    gc.enable()


def _check(first: str, folder: str, baseline: Baseline) -> None:
    """Raise NotWarm if this environment or search path would load other code than the warm interpreter has."""
    rules.check_environment(os.environ, baseline.added | baseline.environment)
    baseline.check_installed()
    rules.check_shadows(first, baseline.loaded, _scan)
    for entry in rules.python_path(os.environ.get("PYTHONPATH", ""), folder):
        if entry not in baseline.python_path and entry not in baseline.base_path:
            rules.check_shadows(entry, baseline.loaded | {"sitecustomize", "usercustomize"}, _scan)


def _scan(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _installed(path: Sequence[str]) -> dict[str, int]:
    return {folder: os.stat(folder).st_mtime_ns for folder in path if os.path.isdir(folder)}


def _set_environment(environment: Mapping[bytes, bytes], baseline: Baseline) -> None:
    wanted = baseline.added | {os.fsdecode(name): os.fsdecode(value) for name, value in environment.items()}
    for name in [name for name in os.environ if name not in wanted]:
        del os.environ[name]
    os.environ.update(wanted)
