"""An interpreter that every user of the host may run, with this one's packages, for the Unix users of teams."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

COMMAND = "#!{python}\nimport sys\nfrom rayplane.client.cli.main import main\nsys.exit(main())\n"


@dataclass(frozen=True)
class OpenPython:
    """The interpreter, its `rayplane` command, and the environment variables that both need."""

    python: Path
    rayplane: Path
    variables: dict[str, str]

    def may_be_run_by_others(self) -> bool:
        """True if an unprivileged user can read the packages."""
        done = subprocess.run(
            [str(self.python), "-c", "import rayplane, ray"],
            user=65533,
            group=65533,
            extra_groups=[],
            cwd="/",
            env={**os.environ, **self.variables},
            check=False,
        )
        return done.returncode == 0


def install(folder: Path) -> OpenPython:
    """Copy the standard library to ``folder``, which others may enter, and make it find this interpreter's packages."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    base, made = Path(sys.base_prefix), folder / "python"
    for part in ("bin", "lib"):
        (made / part).mkdir(parents=True)
    shutil.copy(os.path.realpath(sys.executable), made / "bin" / version)
    for library in (base / "lib").glob("libpython*.so*"):
        shutil.copy(library, made / "lib", follow_symlinks=False)
    left_out = shutil.ignore_patterns("test", "site-packages", "dist-packages", "idlelib", "ensurepip", "config-*")
    shutil.copytree(base / "lib" / version, made / "lib" / version, ignore=left_out, symlinks=False)
    packages = made / "lib" / version / "site-packages"
    packages.mkdir()
    ours = next(path for path in sys.path if path.startswith(sys.prefix) and path.endswith("site-packages"))
    (packages / "ours.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    command = made / "bin" / "rayplane"
    command.write_text(COMMAND.format(python=made / "bin" / version))
    command.chmod(0o755)
    (made / "bin" / "python").symlink_to(version)
    subprocess.run(["chmod", "-R", "go=rX", str(made)], check=True)
    return OpenPython(made / "bin" / version, command, {"LD_LIBRARY_PATH": str(made / "lib")})
