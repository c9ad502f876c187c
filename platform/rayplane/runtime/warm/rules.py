"""Decide if a forked child can run a command exactly as a new interpreter would. Pure."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


class NotWarm(Exception):
    """This command needs a plain start; the message says why."""


@dataclass(frozen=True)
class Run:
    """Code that a Python process runs, parsed from its command line."""

    how: Literal["module", "code", "script"]
    target: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Worker:
    """A worker to start, parsed from the arguments of Ray's ``setup_worker.py``."""

    script: str
    arguments: tuple[str, ...]
    folder: str | None = None
    """Working directory; None for the present one."""
    variables: Mapping[str, str] = field(default_factory=dict)


# Libraries read these variables at import or load, which has happened already: another value comes too late.
_READ_EARLY = re.compile(
    r"PYTHON|OMP_|GOMP_|KMP_|MKL_|OPENBLAS_|BLIS_|NUMEXPR_|VECLIB_|NPY_|NUMPY_|ARROW_|POLARS_|PANDAS_|XGBOOST_|FEAST_"
    r"|MLFLOW_|GRPC_|MALLOC_|JEMALLOC_|_RJEM_|LD_|GLIBC_|LANG|LC_|MPL|CUDA_|NVIDIA_|OTEL_|PROMETHEUS_|FSSPEC_|TQDM_|SKLEARN_|SCIPY_|PROTOCOL_BUFFERS_|JOBLIB_|DASK_|IBIS_|TZ$"
)
# Exceptions: these are read at use, and differ between the processes of a node.
_READ_LATE = re.compile(
    r"PYTHONPATH|PYTHONBREAKPOINT|CUDA_VISIBLE_DEVICES"
    r"|MLFLOW_(RUN_ID|EXPERIMENT_ID|EXPERIMENT_NAME|TRACKING_.*|REGISTRY_URI|WORKSPACE)"
)
_WORKER_OPTION = re.compile(r"--(serialized-runtime-env-context|language)=(.*)", re.DOTALL)


def parse(arguments: Sequence[str]) -> Run:
    """Parse the arguments of ``python``; raises NotWarm for any form but ``-u`` and a module, code or script."""
    left = list(arguments)
    while left and left[0] == "-u":  # all processes of the node are unbuffered
        del left[0]
    if not left:
        raise NotWarm("it reads its code from standard input")
    first = left.pop(0)
    if first in ("-m", "-c"):
        if not left:
            raise NotWarm(f"{first} lacks its argument")
        target = left.pop(0)
        return Run("module" if first == "-m" else "code", target, tuple(left))
    if first.startswith("-"):
        raise NotWarm(f"the option {first}")
    return Run("script", first, tuple(left))


def parse_worker(arguments: Sequence[str], *, python: Collection[str], default_worker: str) -> Worker:
    """Parse a worker's arguments; raises NotWarm if it is no Python worker of the installed Ray."""
    if arguments[0] == default_worker:  # a worker without a runtime environment
        return Worker(script=default_worker, arguments=tuple(arguments[1:]))
    options: dict[str, str] = {}
    passed = []
    for argument in arguments[1:]:
        match = _WORKER_OPTION.fullmatch(argument)
        if match is None:
            passed.append(argument)
        else:
            options[match[1]] = match[2]
    if options.get("language", "PYTHON") != "PYTHON":
        raise NotWarm("a worker in another language")
    context: dict[str, Any] = json.loads(options.get("serialized-runtime-env-context", "") or "{}")
    if context.get("py_executable") and context["py_executable"] not in python:
        raise NotWarm("a worker with an interpreter of its own")
    if context.get("override_worker_entrypoint") or context.get("java_jars"):
        raise NotWarm("a worker with an entrypoint of its own")
    if not passed or passed[0] != default_worker:
        raise NotWarm("a worker with an entrypoint or options of its own")
    prefix = context.get("command_prefix") or []
    if prefix and not (len(prefix) == 3 and prefix[0] == "cd" and prefix[2] == "&&"):
        raise NotWarm("a worker that other commands prepare")
    return Worker(
        script=passed[0],
        arguments=tuple(passed[1:]),
        folder=prefix[1] if prefix else None,
        variables=context.get("env_vars") or {},
    )


def check_environment(wanted: Mapping[str, str], here: Mapping[str, str]) -> None:
    """Raise NotWarm naming variables that libraries read at import and that have another value now."""
    names = wanted.keys() | here.keys()
    early = [name for name in sorted(names) if _READ_EARLY.match(name) and not _READ_LATE.fullmatch(name)]
    differ = [name for name in early if wanted.get(name) != here.get(name)]
    if differ:
        raise NotWarm(f"another value of {', '.join(differ)}")


def python_path(text: str, folder: str) -> list[str]:
    """Folders in PYTHONPATH, made absolute against ``folder`` as Python does; an empty entry is ``folder`` itself."""
    return [os.path.normpath(os.path.join(folder, part)) for part in text.split(os.pathsep)] if text else []


def search_path(first: str, text: str, base: Sequence[str], folder: str) -> list[str]:
    """``sys.path`` of a plain start: the entrypoint's folder, the folders in PYTHONPATH (``text``), then ``base``."""
    return [first, *dict.fromkeys([*python_path(text, folder), *base])]


def check_shadows(folder: str, loaded: Collection[str], scan: Callable[[str], list[str]]) -> None:
    """Raise NotWarm if ``folder``, searched before the interpreter's own, has a module with the name of a loaded one.

    ``scan`` lists a folder; ``loaded`` are top-level names.
    """
    for entry in scan(folder):
        name, dot, ending = entry.partition(".")
        if name not in loaded:
            continue
        if ending == "py" or ending.endswith("so") or (not dot and "__init__.py" in scan(os.path.join(folder, entry))):
            raise NotWarm(f"{os.path.join(folder, entry)} stands for a library that is loaded")
