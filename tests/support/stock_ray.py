"""The `ray` command of an environment that holds `ray[default]` and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support.local_platform import LocalPlatform

ROOT = Path(__file__).parents[2]


@dataclass
class StockRay:
    """Stock Ray, with no rayplane in its environment."""

    folder: Path

    @classmethod
    def install(cls, folder: Path) -> StockRay:
        """Create the environment with the lock's versions; assert that rayplane is not in it."""
        uv = [sys.executable, "-m", "uv"]
        python = str(folder / "bin" / "python")
        subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, str(folder)], check=True)
        subprocess.run(
            [*uv, "pip", "install", "--quiet", "--python", python, "ray[default]==2.60.*",
             "--constraint", str(ROOT / "requirements.lock")],
            check=True,
        )  # fmt: skip
        absent = subprocess.run([python, "-c", "import rayplane"], capture_output=True, check=False)
        assert absent.returncode != 0
        return cls(folder)

    def run(
        self,
        platform: LocalPlatform,
        team: str,
        *arguments: str,
        cluster: str = "dev",
        token: Path | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run `ray ARGUMENTS` with the variables that `rayplane cluster address CLUSTER --jobs` prints for the team."""
        printed = platform.rayplane("cluster", "address", cluster, "--jobs", "--team", team, "-o", "json")
        env = {
            "PATH": f"{self.folder / 'bin'}:/usr/bin:/bin",
            "HOME": str(self.folder),
            "RAYPLANE_TEST_SESSION": os.environ["RAYPLANE_TEST_SESSION"],
            **json.loads(printed.stdout)["jobs"],
        }
        if token is not None:
            env["RAY_AUTH_TOKEN_PATH"] = str(token)
        done = subprocess.run(["ray", *arguments], env=env, capture_output=True, text=True, timeout=300, check=False)
        assert not check or done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done
