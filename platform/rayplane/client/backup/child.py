"""Back up or restore the store in a subprocess of the gateway's code, since no client imports its database."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

from rayplane.client.backup.form import StorePart
from rayplane.errors import Failed, Unsupported, from_problem


def snapshot(verb: str, folder: Path, home: Path) -> StorePart:
    """Run the gateway's backup of a home's store; ``verb``: ``write`` (store to folder) or ``read`` (folder to store).

    Raises the error that the subprocess reports, or Unsupported where the gateway is not installed.
    """
    if importlib.util.find_spec("sqlalchemy") is None:
        raise Unsupported(
            "The platform's database needs 'sqlalchemy', which this Python environment lacks.",
            remedy="Run this where the platform is installed: pip install 'rayplane[local]'",
        )
    done = subprocess.run(
        [sys.executable, "-m", "rayplane.gateway.backup", verb, str(folder)],
        env={**os.environ, "RAYPLANE_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return StorePart.model_validate_json(done.stdout)
    try:
        problem = json.loads(done.stderr.strip().splitlines()[-1])
    except (ValueError, IndexError) as exc:
        raise Failed(f"The store's snapshot failed: {done.stderr[-2000:].strip()}", remedy="Report this.") from exc
    raise from_problem(problem)
