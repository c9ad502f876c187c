"""Compute a pipeline step's key: a hash of everything that its outputs depend on. Pure."""

from __future__ import annotations

import ast
import fnmatch
import hashlib
import io
import json
import re
import shlex
import threading
import zipfile
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any

from rayplane.errors import InvalidSpec
from rayplane.nouns.job import Output
from rayplane.nouns.pipeline import Step

_MOST_SOURCE = 2**20
"""Limit in bytes of a module that is parsed for imports: its syntax tree takes a hundred times as much memory."""
_PIECE = 2**16
_REFERENCE = re.compile(r"\$\{([^}]*)\}")
# CPython's parser counts its recursion per process, not per thread, in older releases (python/cpython#106905): two
# threads that parse at once may end with a SystemError.
_PARSING = threading.Lock()
_MODULE = re.compile(r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$")


def substitute(text: str, parameters: Mapping[str, str], where: str) -> str:
    """``text`` with each ``${name}`` replaced; raises InvalidSpec naming an unknown one."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in parameters:
            known = ", ".join(sorted(parameters)) or "none"
            raise InvalidSpec(f"{where}: parameter '{match[1]}' is unknown.", remedy=f"Known: {known}.")
        return parameters[match[1]]

    return _REFERENCE.sub(value, text)


def resolve(name: str, step: Step, parameters: Mapping[str, str]) -> Step:
    """The step with the run's parameters put into its sources and parameters."""
    where = f"pipeline.steps.{name}"
    return step.model_copy(
        update={
            "sources": {k: substitute(v, parameters, f"{where}.sources.{k}") for k, v in step.sources.items()},
            "parameters": {k: substitute(v, parameters, f"{where}.parameters.{k}") for k, v in step.parameters.items()},
        }
    )


def step_key(
    step: Step,
    *,
    closure: Mapping[str, str],
    inputs: Mapping[str, str],
    values: Mapping[str, Any],
    sources: Mapping[str, str],
    environment: str,
) -> str:
    """SHA-256 (hex) over a resolved step and what goes into it.

    closure: path in the package -> SHA-256 of the file; inputs: dataset -> version; values: non-dataset outputs of
    the steps it needs; sources: source name -> content hash; environment: the environment's key.
    """
    text = json.dumps(
        {
            "entrypoint": step.entrypoint,
            "parameters": step.parameters,
            "env": step.env,
            "outputs": sorted(step.outputs),
            "tracked": step.tracked,
            "closure": dict(closure),
            "inputs": dict(inputs),
            "values": dict(values),
            "sources": dict(sources),
            "environment": environment,
        },
        sort_keys=True,
    )
    return hashlib.sha256(text.encode()).hexdigest()


def values_of(needs: Mapping[str, list[Output]]) -> dict[str, Any]:
    """``<step>.<output>`` -> value, for every output of the needed steps that is not a dataset."""
    return {
        f"{step}.{output.name}": output.value
        for step, outputs in sorted(needs.items())
        for output in outputs
        if output.kind != "dataset"
    }


def code_closure(package: bytes | None, entrypoint: str, files: list[str]) -> dict[str, str]:
    """The files of a package (zip) that an entrypoint depends on: path -> SHA-256 (hex).

    For ``python -m module`` and ``python file.py`` these are the entry module and every module of the package that it
    imports, transitively, with the ``__init__.py`` of each package on the way, and the files that match ``files``.
    A dotted string constant that names a module of the package counts as an import, since class paths are strings.
    For any other command, and with a module of more than a MiB, it is the whole package.
    """
    if package is None:
        return {}
    with zipfile.ZipFile(io.BytesIO(package)) as archive:
        contents = {info.filename: info for info in archive.infolist() if not info.is_dir()}
        entry = _entry_file(entrypoint, contents)
        chosen = None if entry is None else _reachable(entry, contents, archive)
        if chosen is None:
            chosen = set(contents)
        else:
            chosen |= {path for path in contents if any(fnmatch.fnmatch(path, pattern) for pattern in files)}
        return {path: _hash(archive, contents[path]) for path in sorted(chosen)}


def _hash(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> str:
    """SHA-256 of a file, read in pieces: it may be larger than the gateway's memory."""
    digest = hashlib.sha256()
    with archive.open(info) as stream:
        while data := stream.read(_PIECE):
            digest.update(data)
    return digest.hexdigest()


def _entry_file(entrypoint: str, contents: Collection[str]) -> str | None:
    try:
        words = shlex.split(entrypoint)
    except ValueError:
        return None  # a shell may yet understand it, or reports the error itself
    if len(words) >= 3 and _is_python(words[0]) and words[1] == "-m":
        return _file_of(words[2], contents)
    if len(words) >= 2 and _is_python(words[0]) and words[1] in contents:
        return words[1]
    return None


def _is_python(word: str) -> bool:
    return re.fullmatch(r"(.*/)?python(\d+(\.\d+)?)?", word) is not None


def _file_of(module: str, contents: Collection[str]) -> str | None:
    base = module.replace(".", "/")
    candidates = (f"{base}.py", f"{base}/__main__.py", f"{base}/__init__.py")
    return next((path for path in candidates if path in contents), None)


def _reachable(entry: str, contents: Mapping[str, zipfile.ZipInfo], archive: zipfile.ZipFile) -> set[str] | None:
    """The files that an entry file imports, transitively; None if one of them is too large to parse."""
    reached: set[str] = set()
    queue = [entry, *_parents(entry, contents)]
    while queue:
        path = queue.pop()
        if path in reached:
            continue
        reached.add(path)
        if contents[path].file_size > _MOST_SOURCE:
            return None
        for module in _imported(path, archive.read(contents[path])):
            imported = _file_of(module, contents)
            if imported is not None:
                queue.extend([imported, *_parents(imported, contents)])
    return reached


def _parents(path: str, contents: Collection[str]) -> list[str]:
    folders = path.split("/")[:-1]
    inits = ("/".join([*folders[: i + 1], "__init__.py"]) for i in range(len(folders)))
    return [init for init in inits if init in contents]


@lru_cache(maxsize=1024)  # a run asks for the same modules at every step
def _imported(path: str, source: bytes) -> frozenset[str]:
    try:
        with _PARSING:
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        # The job itself will report the error; the file's own bytes are in the key. The parser raises the last two for
        # code that is nested too deeply, and Python 3.11 raises ValueError for a NUL.
        return frozenset()
    package = path.removesuffix(".py").removesuffix("/__init__").split("/")
    if not path.endswith("__init__.py"):
        package = package[:-1]
    modules: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            modules.add(prefix)
            modules.update(f"{prefix}.{alias.name}" if prefix else alias.name for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _MODULE.match(node.value):
            modules.add(node.value)
    return frozenset(modules)
