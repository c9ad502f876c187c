"""A pytest plug-in that takes one call to the API server out of the adapter: MUTANT_OF_THE_ADAPTER=<module>:<n>.

The n-th call becomes one to something deaf, which does nothing and answers as plausibly as it can.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import rayplane
from rayplane.errors import NotFound

PACKAGE = "rayplane.gateway.backends.kubernetes"
MODULES = ("backend", "clusters", "jobs", "services", "own", "place", "cache")
VARIABLE = "MUTANT_OF_THE_ADAPTER"

_FOLDER = Path(str(rayplane.__file__)).parent / "gateway" / "backends" / "kubernetes"
_CALLS = {"apply", "merge", "get", "list", "delete", "pages", "watch", "create"}
_SHARED = {"apply", "delete", "put_secrets"}
"""What own.py calls the API server for, on behalf of others."""


class Site(NamedTuple):
    """A call to the API server in the adapter's code."""

    module: str
    number: int
    line: int
    text: str

    @property
    def id(self) -> str:
        """What the variable names it by."""
        return f"{self.module}:{self.number}"


def sites() -> list[Site]:
    """Every call of the adapter to the API server."""
    return [
        Site(module, number, call.lineno, ast.unparse(call))
        for module in MODULES
        for number, call in enumerate(_calls(ast.parse(_source(module))))
    ]


def pytest_configure() -> None:
    """Put the mutant where everybody imports it from."""
    chosen = os.environ.get(VARIABLE)
    if chosen:
        module, _, number = chosen.partition(":")
        install(module, int(number))


def install(module: str, number: int) -> None:
    """Have a module without its n-th call stand for the real one in this process."""
    tree = ast.parse(_source(module))
    call = list(_calls(tree))[number]
    assert isinstance(call.func, ast.Attribute)
    call.func.value = ast.Name("_deaf", ast.Load())
    ast.fix_missing_locations(tree)
    path = _FOLDER / f"{module}.py"
    spec = importlib.util.spec_from_file_location(f"{PACKAGE}.{module}", path)
    assert spec is not None
    mutant = importlib.util.module_from_spec(spec)
    mutant.__dict__["_deaf"] = Deaf()
    sys.modules[spec.name] = mutant
    exec(compile(tree, str(path), "exec"), mutant.__dict__)
    setattr(importlib.import_module(PACKAGE), module, mutant)


class Deaf:
    """What stands for the API server in a call that was taken out."""

    def apply(self, *given: Any, **_: Any) -> dict[str, Any]:
        """As if it were applied."""
        manifest = given[-1]
        return {**manifest, "metadata": {**manifest["metadata"], **_MADE}}

    def merge(self, kind: Any, name: str, namespace: str | None, change: dict[str, Any]) -> dict[str, Any]:
        """As if it were merged."""
        return {"metadata": {"name": name, "namespace": namespace, **_MADE, **change["metadata"]}}

    def get(self, *_: Any) -> Any:
        """There is none."""
        raise NotFound("There is none.")

    def pages(self, *_: Any, **__: Any) -> Iterator[Any]:
        """There are none."""
        yield importlib.import_module(f"{PACKAGE}.api").Listing([], "0")

    def watch(self, *_: Any, **__: Any) -> Iterator[Any]:
        """Nothing happens."""
        return iter(())

    def delete(self, *_: Any, **__: Any) -> None:
        """As if it were gone."""

    def put_secrets(self, *_: Any, **__: Any) -> None:
        """As if they were there."""


_MADE = {"uid": "deaf", "resourceVersion": "0", "creationTimestamp": "2026-01-01T00:00:00Z"}


def _source(module: str) -> str:
    return (_FOLDER / f"{module}.py").read_text()


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    """The calls of an ``api``, and those of ``own`` that stand for one, in the order of the text."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _asks(node.func)]
    return iter(sorted(found, key=lambda node: (node.lineno, node.col_offset)))


def _asks(called: ast.expr) -> bool:
    if not isinstance(called, ast.Attribute):
        return False
    if isinstance(called.value, ast.Name):
        return called.value.id == "own" and called.attr in _SHARED
    return isinstance(called.value, ast.Attribute) and called.value.attr in ("api", "_api") and called.attr in _CALLS
