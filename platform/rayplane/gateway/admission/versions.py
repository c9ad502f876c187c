"""Compare a client's versions of Ray and Python with a cluster's. Pure: versions in, nothing or Refused out."""

from __future__ import annotations

from dataclasses import dataclass

from rayplane.errors import Refused
from rayplane.nouns.environment import Environment

RAY = "rayplane.ray"
PYTHON = "rayplane.python"
"""Keys of a job's metadata by which a client declares its own versions; a stock client declares none."""


@dataclass(frozen=True)
class Declared:
    """The versions that a client declares; None for one that it does not."""

    ray: str | None = None
    python: str | None = None


def declared_by(metadata: dict[str, str]) -> Declared:
    """The versions that a job's metadata declares."""
    return Declared(ray=metadata.get(RAY), python=metadata.get(PYTHON))


def require_match(declared: Declared, cluster: Environment, *, what: str) -> None:
    """Raise Refused unless the declared minor versions of Ray and Python are the cluster's; undeclared ones pass."""
    for name, theirs, ours in (("Ray", declared.ray, cluster.ray), ("Python", declared.python, cluster.python)):
        if theirs is not None and minor(theirs) != minor(ours):
            raise Refused(
                f"{what} runs {name} {ours}, but this client has {name} {theirs}.",
                remedy=f"Use {name} {minor(ours)} here, or a cluster whose environment has {name} {minor(theirs)}.",
            )


def minor(version: str) -> str:
    """The minor version: ``2.60`` of ``2.60.0``."""
    return ".".join(version.split(".")[:2])
