"""Make a forked child what the command wants: streams, environment, search path, random state, then its code."""

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

_run_as_main: Callable[[str], object] = vars(runpy)["_run_module_as_main"]  # what -m itself calls
PYTHONS = (sys.executable, os.path.realpath(sys.executable))
"""How Ray may name this interpreter as a worker's."""
Request = Mapping[str, Any]
"""What the shim sends: kind, arguments, environment, folder, umask, blocked signals."""


class Ground:
    """What all children start from, taken once the libraries are imported."""

    def __init__(self, environment: Mapping[str, str], path: Sequence[str]) -> None:
        self.environment = dict(environment)
        self.python_path = rules.python_path(environment.get("PYTHONPATH", ""), os.getcwd())
        """What the node's own PYTHONPATH lists."""
        self.added = {name: value for name, value in os.environ.items() if name not in environment}
        """What libraries set for themselves when they were imported."""
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
        """Raise NotWarm if packages were installed or removed since."""
        if _installed(self.base_path) != self.installed:
            raise NotWarm("other packages are installed since")


def prepare_run(request: Request, ground: Ground) -> Run:
    """What the command runs, its environment set; raises NotWarm where a fork would not do as a plain start does."""
    run = rules.parse(request["arguments"])
    _set_environment(request["environment"], ground)
    first = folder = os.fsdecode(request["folder"])
    if run.how == "script":
        script = Path(folder, run.target)
        if not script.is_file() or script.suffix == ".pyc" or zipfile.is_zipfile(script):
            raise NotWarm("the script is no file of source")
        first = str(script.resolve().parent)
    _check(first, folder, ground)
    return run


def prepare_worker(request: Request, ground: Ground) -> Worker:
    """What Ray wants of the worker, its environment set; raises NotWarm as ``prepare_run`` does."""
    worker = rules.parse_worker(request["arguments"], python=PYTHONS, default_worker=_default_worker())
    _set_environment(request["environment"], ground)
    for name, value in worker.variables.items():  # as Ray's update_envs does
        os.environ[name] = re.sub(r"\$\{[A-Z0-9_]+\}", "", os.path.expandvars(value))
    folder = worker.folder or os.fsdecode(request["folder"])
    _check(folder, folder, ground)
    return worker


def check_process(pid: int) -> None:
    """Raise NotWarm if the shim's process has other limits, priority, processors, rights or namespaces than this one.

    A plain start would have inherited them.
    """
    if _attributes(pid) != _attributes(os.getpid()):
        raise NotWarm("limits, priority, processors, rights or namespaces of its own")


def _attributes(pid: int) -> list[object]:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    kept = [line for line in status if line.startswith(("Cpus_allowed:", "NoNewPrivs:", "CapEff:", "Gid:", "Groups:"))]
    spaces = [os.readlink(f"/proc/{pid}/ns/{name}") for name in ("mnt", "net", "pid", "user", "uts", "ipc")]
    root, niceness = os.readlink(f"/proc/{pid}/root"), os.getpriority(os.PRIO_PROCESS, pid)
    return [Path(f"/proc/{pid}/limits").read_text(), kept, spaces, root, niceness]


def _default_worker() -> str:
    ray = importlib.util.find_spec("ray")
    if ray is None or ray.origin is None:
        raise NotWarm("Ray is not installed")
    return str(Path(ray.origin).parent / "_private" / "workers" / "default_worker.py")


def become(request: Request, streams: Sequence[int]) -> None:
    """Take over the streams, folder, umask and signal mask of the command."""
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
    """Be in the group of processes of the shim, which the raylet made for the worker and ends with it."""
    try:
        os.setpgid(0, group)
    except OSError:  # another session's, or gone: a group of its own then
        os.setpgid(0, 0)


def run_worker(worker: Worker, ground: Ground) -> NoReturn:
    """Be Ray's worker process."""
    _freshen(ground)
    if worker.folder is not None:
        os.chdir(worker.folder)
    first = str(Path(worker.script).parent)
    sys.path[:] = rules.search_path(first, os.environ.get("PYTHONPATH", ""), ground.base_path, os.getcwd())
    sys.argv[:] = [worker.script, *worker.arguments]
    _show_command(sys.argv)
    _end_as_plain(lambda: _run_script(worker.script), ground)


def run_entrypoint(run: Run, ground: Ground) -> NoReturn:
    """Be the interpreter that ``python`` with this command would be, to its end."""
    _freshen(ground)
    first = {"module": os.getcwd(), "code": "", "script": str(Path(run.target).resolve().parent)}[run.how]
    sys.path[:] = rules.search_path(first, os.environ.get("PYTHONPATH", ""), ground.base_path, os.getcwd())
    option = {"module": ["-m"], "code": ["-c"], "script": []}[run.how]
    _show_command([*option, run.target, *run.arguments])
    if run.how == "module":
        sys.argv[:] = ["-m", *run.arguments]
        _new_main()
        _end_as_plain(lambda: _run_as_main(run.target), ground)
    if run.how == "code":
        sys.argv[:] = ["-c", *run.arguments]
        namespace = _new_main().__dict__
        _end_as_plain(lambda: exec(compile(run.target, "<string>", "exec", dont_inherit=True), namespace), ground)  # noqa: S102  as -c does
    sys.argv[:] = [run.target, *run.arguments]
    _end_as_plain(lambda: _run_script(run.target), ground)


def _run_script(path: str) -> None:
    path = os.path.join(os.getcwd(), path)  # as __file__ of a script is since Python 3.9
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


def _end_as_plain(act: Callable[[], object], ground: Ground) -> NoReturn:
    """Run it, and end as an interpreter does: what it raises is shown without the frames of this module.

    All is done that a program may count on (its threads, its exit functions, its own modules taken apart, its files
    closed), but the libraries are not taken apart: that would copy most of the memory that is shared, and take 0.6 s.
    """
    code, interrupted = 0, False
    try:
        act()
    except SystemExit as exc:
        code = _exit_code(exc.code)
    except BaseException as exc:  # noqa: BLE001  whatever it is, an interpreter shows it and ends
        exc.__traceback__ = _own_frames(exc.__traceback__)
        sys.excepthook(type(exc), exc, exc.__traceback__)
        code, interrupted = 1, isinstance(exc, KeyboardInterrupt)
    try:
        threading._shutdown()  # type: ignore[attr-defined]
    except BaseException as exc:  # noqa: BLE001  as an interpreter does: it is shown, and the end goes on
        sys.excepthook(type(exc), exc, exc.__traceback__)
    atexit._run_exitfuncs()
    _take_apart(ground)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed, replaced, or its reader is gone
            stream.flush()
    ctypes.CDLL(None).fflush(None)
    if interrupted:  # python ends by the signal then
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code)


def _take_apart(ground: Ground) -> None:
    """Close what the job left open, as an interpreter's end does: its files, and what writes at its deletion."""
    if threading.active_count() == 1:  # else a thread that runs on would miss its module
        own = [module for name, module in list(sys.modules.items()) if name not in ground.modules]
        own = [module for module in own if not _is_installed(module, ground)]
        main = sys.modules["__main__"]
        for module in [*(module for module in reversed(own) if module is not main), main]:
            vars(module).clear()
        gc.collect()
    for item in gc.get_objects():  # those of the libraries are frozen, and not among them
        if issubclass(type(item), io.IOBase):
            with suppress(Exception):
                item.flush()


def _is_installed(module: types.ModuleType, ground: Ground) -> bool:
    file = getattr(module, "__file__", None)
    return not file or any(file.startswith(f"{folder}/") for folder in ground.base_path)


def _exit_code(code: object) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)
    return 1


def _own_frames(traceback: types.TracebackType | None) -> types.TracebackType | None:
    while traceback is not None and traceback.tb_frame.f_code.co_filename == __file__:
        traceback = traceback.tb_next
    return traceback


def _show_command(arguments: Sequence[str]) -> None:
    """Have ``ps``, Ray's list of drivers and ``sys.orig_argv`` show the command instead of the warm interpreter's."""
    sys.orig_argv[:] = [sys.executable, *arguments]
    with suppress(OSError, ValueError):
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        start, end = int(fields[45]), int(fields[46])  # arg_start and arg_end of proc(5)
        text = "\0".join(sys.orig_argv).encode(errors="surrogateescape")[: end - start - 1]
        ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)


def _freshen(ground: Ground) -> None:
    """Give the child what no two processes share: random state, the key of its own children, its folders, its input."""
    for generator in ground.generators:
        generator.seed()
    for generator in ground.numpy_generators:
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


def _check(first: str, folder: str, ground: Ground) -> None:
    """Raise NotWarm where the environment or the search path asks for libraries otherwise than they are loaded."""
    rules.check_environment(os.environ, ground.added | ground.environment)
    ground.check_installed()
    rules.check_shadows(first, ground.loaded, _scan)
    for entry in rules.python_path(os.environ.get("PYTHONPATH", ""), folder):
        if entry not in ground.python_path and entry not in ground.base_path:
            rules.check_shadows(entry, ground.loaded | {"sitecustomize", "usercustomize"}, _scan)


def _scan(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _installed(path: Sequence[str]) -> dict[str, int]:
    return {folder: os.stat(folder).st_mtime_ns for folder in path if os.path.isdir(folder)}


def _set_environment(environment: Mapping[bytes, bytes], ground: Ground) -> None:
    wanted = ground.added | {os.fsdecode(name): os.fsdecode(value) for name, value in environment.items()}
    for name in [name for name in os.environ if name not in wanted]:
        del os.environ[name]
    os.environ.update(wanted)
