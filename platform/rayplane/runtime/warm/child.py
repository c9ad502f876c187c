"""Make a forked child what the command wants: streams, environment, search path, random state, then its code."""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib.util
import os
import random
import re
import runpy
import signal
import sys
import threading
import types
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

    def __init__(self, environment: Mapping[str, str], base_path: Sequence[str]) -> None:
        self.environment = dict(environment)
        self.added = {name: value for name, value in os.environ.items() if name not in environment}
        """What libraries set for themselves when they were imported."""
        self.base_path = list(base_path)
        self.loaded = frozenset(name.partition(".")[0] for name in sys.modules)
        self.installed = _installed(base_path)
        self.generators = [item for item in gc.get_objects() if type(item) is random.Random]
        numpy = sys.modules.get("numpy")
        kind = numpy.random.RandomState if numpy is not None else ()
        self.numpy_generators = [item for item in gc.get_objects() if isinstance(item, kind)]

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
        if not script.is_file() or script.suffix in (".zip", ".pyz", ".pyc"):
            raise NotWarm("the script is no file of source")
        first = str(script.resolve().parent)
    _check(first, ground)
    return run


def prepare_worker(request: Request, ground: Ground) -> Worker:
    """What Ray wants of the worker, its environment set; raises NotWarm as ``prepare_run`` does."""
    worker = rules.parse_worker(request["arguments"], python=PYTHONS, default_worker=_default_worker())
    _set_environment(request["environment"], ground)
    for name, value in worker.variables.items():  # as Ray's update_envs does
        os.environ[name] = re.sub(r"\$\{[A-Z0-9_]+\}", "", os.path.expandvars(value))
    _check(worker.folder or os.fsdecode(request["folder"]), ground)
    return worker


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
    sys.path[:] = rules.search_path(str(Path(worker.script).parent), os.environ.get("PYTHONPATH", ""), ground.base_path)
    sys.argv[:] = [worker.script, *worker.arguments]
    _end_as_plain(lambda: _run_script(worker.script))


def run_entrypoint(run: Run, ground: Ground) -> NoReturn:
    """Be the interpreter that ``python`` with this command would be, to its end."""
    _freshen(ground)
    first = {"module": os.getcwd(), "code": "", "script": str(Path(run.target).resolve().parent)}[run.how]
    sys.path[:] = rules.search_path(first, os.environ.get("PYTHONPATH", ""), ground.base_path)
    if run.how == "module":
        sys.argv[:] = ["-m", *run.arguments]
        _new_main()
        _end_as_plain(lambda: _run_as_main(run.target))
    if run.how == "code":
        sys.argv[:] = ["-c", *run.arguments]
        namespace = _new_main().__dict__
        _end_as_plain(lambda: exec(compile(run.target, "<string>", "exec"), namespace))  # noqa: S102  as -c does
    sys.argv[:] = [run.target, *run.arguments]
    _end_as_plain(lambda: _run_script(run.target))


def _run_script(path: str) -> None:
    path = os.path.join(os.getcwd(), path)  # as __file__ of a script is since Python 3.9
    source = Path(path).read_bytes()
    main = _new_main()
    main.__file__ = path
    main.__loader__ = SourceFileLoader("__main__", path)
    exec(compile(source, path, "exec"), main.__dict__)  # noqa: S102  as python does


def _new_main() -> types.ModuleType:
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = sys.modules["builtins"]
    vars(main)["__annotations__"] = {}
    sys.modules["__main__"] = main
    return main


def _end_as_plain(act: Callable[[], object]) -> NoReturn:
    """Run it, and end as an interpreter does: what it raises is shown without the frames of this module.

    All is done that a program may count on (its threads and exit functions, what is buffered), but the libraries are
    not taken apart: that would copy most of the memory that is shared, and take 0.6 s.
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
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed, replaced, or its reader is gone
            stream.flush()
    ctypes.CDLL(None).fflush(None)
    if interrupted:  # python ends by the signal then
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code)


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


def _freshen(ground: Ground) -> None:
    """Give the child what no two processes share: random state, and the key of its multiprocessing children."""
    for generator in ground.generators:
        generator.seed()
    for generator in ground.numpy_generators:
        generator.seed()
    multiprocessing = sys.modules.get("multiprocessing.process")
    if multiprocessing is not None:
        multiprocessing.current_process().authkey = os.urandom(32)
    gc.enable()


def _check(first: str, ground: Ground) -> None:
    """Raise NotWarm where the environment or the search path asks for libraries otherwise than they are loaded."""
    rules.check_environment(os.environ, ground.added | ground.environment)
    ground.check_installed()
    for folder in rules.search_path(first, os.environ.get("PYTHONPATH", ""), ()):
        if folder not in ground.base_path:
            rules.check_shadows(folder, ground.loaded, _scan)


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
