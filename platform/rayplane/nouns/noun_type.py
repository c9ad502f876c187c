"""The type of a row in the table of nouns. Imports no model, so that the command line can list the nouns at once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

if TYPE_CHECKING:
    from rayplane.nouns.base import Spec, Status

S = TypeVar("S", bound="Spec")
T = TypeVar("T", bound="Status")


@dataclass(frozen=True)
class NounType(Generic[S, T]):
    """One row of the table of nouns: a noun's names, its line in the help, and where its spec and status are."""

    kind: str
    singular: str
    plural: str
    help: str
    """The line of its command group in the help."""
    spec_code: str
    """``module:class`` of its spec."""
    status_code: str
    """``module:class`` of its status."""
    team_scoped: bool = True
    columns: tuple[tuple[str, str], ...] = ()
    """(heading, dotted path in the object) of each column that a list shows after NAME."""

    @cached_property
    def spec(self) -> type[S]:
        """The class of its spec, imported at first use."""
        spec: type[S] = _resolve(self.spec_code)
        return spec

    @cached_property
    def status(self) -> type[T]:
        """The class of its status, imported at first use."""
        status: type[T] = _resolve(self.status_code)
        return status


AnyNoun: TypeAlias = NounType[Any, Any]


def _resolve(code: str) -> Any:
    module, _, attribute = code.partition(":")
    return getattr(import_module(module), attribute)
