"""Choose the children's ports: each home has its own, and keeps them unless another process takes one."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from rayplane import processes
from rayplane.errors import PortTaken

# Below the kernel's ephemeral range (32768-60999) and Kubernetes' node ports (30000-32767), so that no outgoing
# connection takes a port after it is chosen and before the child listens.
FIRST, LAST = 20_000, 29_999
TRIES = 200


def choose(
    names: Sequence[str],
    known: Mapping[str, int],
    *,
    seed: str,
    preferred: Mapping[str, int],
    required: Mapping[str, int],
    ours: Callable[[str, int], bool],
    is_free: Callable[[int], bool] = processes.is_free,
) -> dict[str, int]:
    """A port for each name: the required one, else the known, else the preferred, else one that depends on the home.

    ``ours(name, port)`` is true if the child itself has the port now, so that it may be adopted. Raises PortTaken if a
    required port belongs to another process, or if no port is free.
    """
    chosen: dict[str, int] = {}
    shuffled = random.Random(seed).sample(range(FIRST, LAST + 1), TRIES)  # noqa: S311  not a secret
    for name in names:
        usable = _usable(name, ours, is_free)
        if name in required:
            if not usable(required[name]):
                raise PortTaken(
                    f"Port {required[name]} for {name} is used by another process.",
                    remedy=f"Stop that process (see: ss -ltnp 'sport = :{required[name]}'), or ask for another port; "
                    "where none is asked for (--port, RAYPLANE_PORT, RAYPLANE_MLFLOW_PORT) a free one is chosen.",
                )
            chosen[name] = required[name]
            continue
        candidates = [p for p in (known.get(name), preferred.get(name)) if p is not None] + shuffled
        taken = {*chosen.values(), *required.values()}
        port = next((p for p in candidates if p not in taken and usable(p)), None)
        if port is None:
            raise PortTaken(
                f"None of {TRIES} ports between {FIRST} and {LAST} is free for {name}.",
                remedy="Stop what listens there, then run 'rayplane up' again.",
            )
        chosen[name] = port
    return chosen


def _usable(name: str, ours: Callable[[str, int], bool], is_free: Callable[[int], bool]) -> Callable[[int], bool]:
    return lambda port: ours(name, port) or is_free(port)
