"""Ask the served model exactly as README.md shows it; for .ci/run, while the platform of RAYPLANE_HOME is up.

``python -m tests.support.readme`` runs README's console block that asks the service, exactly as printed, with bash.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.report import one_probability

ROOT = Path(__file__).parents[2]
ASKS = 'curl -s "$(rayplane service url'
TIMEOUT = 120.0
"""Seconds that the commands may take."""


class NotAsWritten(Exception):
    """README shows something that does not work."""


def block(text: str) -> str:
    """The console block that asks the service. Raises NotAsWritten unless there is exactly one."""
    blocks = re.findall(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    asking = [candidate for candidate in blocks if ASKS in candidate]
    if len(asking) != 1:
        raise NotAsWritten(f"README.md has {len(asking)} console blocks with '{ASKS}', not one.")
    return str(asking[0])


def answer_to(typed: str) -> str:
    """Run the commands in a shell at the root of the clone; return their output. Raises NotAsWritten if they fail."""
    path = f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    try:
        done = subprocess.run(
            ["bash", "-c", typed],
            cwd=ROOT,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise NotAsWritten(f"README's commands did not end within {TIMEOUT:.0f} s:\n{typed}") from exc
    if done.returncode:
        raise NotAsWritten(f"README's commands ended with {done.returncode}:\n{typed}{done.stdout}{done.stderr}")
    try:
        answer = json.loads(done.stdout)
    except json.JSONDecodeError as exc:
        raise NotAsWritten(f"README's commands printed no JSON:\n{typed}{done.stdout}{done.stderr}") from exc
    if not one_probability(answer):
        raise NotAsWritten(f"The answer to README's commands is not one prediction from 0 to 1: {answer}")
    return done.stdout.strip()


def main() -> int:
    """Print the answer or the error; return the exit code, 1 for an error."""
    try:
        answer = answer_to(block((ROOT / "README.md").read_text()))
    except NotAsWritten as exc:
        print(f"readme: {exc}", file=sys.stderr)
        return 1
    print(f"readme: {answer}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
