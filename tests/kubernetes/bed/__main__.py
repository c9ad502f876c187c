"""`python -m tests.kubernetes.bed up [--level a|b]`: a bed in the foreground; Ctrl-C or SIGTERM removes it."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager

from rayplane.errors import RayplaneError
from tests.kubernetes.bed import image, tools
from tests.kubernetes.bed.control_plane import ControlPlane
from tests.kubernetes.bed.level_a import level_a
from tests.kubernetes.bed.level_b import cache_folder, level_b

_ENDING = (signal.SIGINT, signal.SIGTERM)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments say; ``up`` prints the admin's kubeconfig on standard output. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.kubernetes.bed", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("image", help="make the image of level b's pods, as far as it is not there")
    up = commands.add_parser("up", help="bring a bed up, in the foreground")
    up.add_argument("--level", choices=["a", "b"], default="a")
    up.add_argument("--nodes", type=int, default=2, help="fake nodes (level a)")
    up.add_argument("--audit", action="store_true", help="keep the metadata of every request")
    chosen = parser.parse_args(arguments)
    if chosen.command == "image":
        return _image()
    return _up(chosen)


def _image() -> int:
    if os.geteuid() != 0:
        _say("no image is made: level b, whose pods run it, needs root")
        return 0
    paths = tools.find(["debootstrap"])
    made, _ = image.ray_image(cache_folder(), debootstrap=paths["debootstrap"], say=_say)
    _say(f"image {made.reference} {made.digest}")
    return 0


def _up(chosen: argparse.Namespace) -> int:
    for number in _ENDING:
        signal.signal(number, signal.default_int_handler)
    bed: ControlPlane | None = None
    try:
        with _bed(chosen) as bed:
            _hold(bed)
    except KeyboardInterrupt:
        _say("interrupted while it started")
    except RayplaneError as error:
        _say(str(error))
        return 1
    left = bed.left_over() if bed is not None else []
    _say(f"down, but there is left: {left}" if left else "down, and nothing is left")
    return 1 if left else 0


def _bed(chosen: argparse.Namespace) -> AbstractContextManager[ControlPlane]:
    if chosen.level == "a":
        return level_a(nodes=chosen.nodes, audit=chosen.audit, say=_say)
    return level_b(audit=chosen.audit, say=_say)


def _hold(bed: ControlPlane) -> None:
    print(bed.kubeconfig, flush=True)
    _say(f"export KUBECONFIG={bed.kubeconfig}; logs are in {bed.folder}/logs; Ctrl-C ends it")
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        for number in _ENDING:  # a second signal must not interrupt the shutdown
            signal.signal(number, signal.SIG_IGN)
        _say("taking it down")


def _say(line: str) -> None:
    print(f"bed: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
