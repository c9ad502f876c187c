"""Rules for the repository: its layout, forbidden contents, light imports, and that strings which name code resolve."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import zipfile
from importlib import import_module
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path

import pytest

import rayplane
from rayplane import plugins

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "platform" / "rayplane"

FOLDERS = {".ci", "benchmarks", "deploy", "docs", "features", "jobs", "platform", "serving", "tests"}
GIT_FOLDERS = {".git", ".github"}

# Assembled from parts, so that this file itself does not match.
REGISTRIES = [
    ".".join(host) for host in (("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("deb", "debian"))
]
MACHINE_PATHS = ["/" + folder + "/" for folder in ("work", "root", "home")]

HEAVY = {"ray", "mlflow", "feast", "torch", "xgboost", "sklearn", "pandas"}
EXTRAS = HEAVY | {"fastapi", "starlette", "uvicorn", "sqlalchemy", "alembic", "dbos", "psycopg", "pyarrow", "numpy"}


def files() -> list[Path]:
    """Every file that is committed or would be."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [path for line in listed.stdout.splitlines() if (path := ROOT / line).is_file()]


def texts() -> list[tuple[str, str]]:
    """Path from the root and content of every text file."""
    contents = []
    for path in files():
        content = path.read_bytes()
        if b"\0" not in content:
            contents.append((str(path.relative_to(ROOT)), content.decode("utf-8")))
    return contents


def test_platform_holds_rayplane_alone() -> None:
    assert [entry.name for entry in (ROOT / "platform").iterdir() if entry.name != "__pycache__"] == ["rayplane"]


def test_the_standard_library_keeps_its_module_platform_in_the_clone() -> None:
    """A package platform/ would shadow it, and Ray's jobs would stay PENDING for ever."""
    code = "import platform, uuid, rayplane; print(platform.python_version())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ".".join(map(str, sys.version_info[:3]))


def test_the_top_level_holds_the_known_folders() -> None:
    top = {path.relative_to(ROOT).parts[0] for path in files() if path.parent != ROOT}
    assert top - GIT_FOLDERS <= FOLDERS


def test_a_teams_folders_are_packages() -> None:
    assert [name for name in ("jobs", "serving", "features") if not (ROOT / name / "__init__.py").is_file()] == []


@pytest.mark.parametrize("host", REGISTRIES)
def test_no_file_names_a_registry(host: str) -> None:
    assert [name for name, text in texts() if host in text] == []


@pytest.mark.parametrize("path", MACHINE_PATHS)
def test_no_file_names_a_path_of_a_machine(path: str) -> None:
    """No text contains a path that begins with ``path``, unless as a part of a longer path or URL."""
    beginning = re.compile(r"(?<![\w./}~*)-])" + re.escape(path))
    lines = [f"{name}: {line}" for name, text in texts() for line in text.splitlines() if beginning.search(line)]
    assert lines == []


def test_the_lock_pins_every_package_by_hash_and_names_no_index() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    assert "--index" not in lock
    assert "--find-links" not in lock
    pinned = re.findall(r"^(\S+==\S+)((?: .*)?\\\n(?:    --hash=.*\n)+)?", lock, re.MULTILINE)
    assert [requirement for requirement, hashes in pinned if "--hash=sha256:" not in hashes] == []
    assert len(pinned) > 100


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_begins_with_a_docstring(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def named_code(source: Path) -> list[str]:
    """Strings in a file that name code of rayplane: 'module:attribute' or a dotted path."""
    shape = re.compile(r"(?:python -m )?(rayplane(?:\.\w+)+(?::\w+)?)")
    constants = (n.value for n in ast.walk(ast.parse(source.read_text())) if isinstance(n, ast.Constant))
    return [match[1] for value in constants if isinstance(value, str) and (match := shape.fullmatch(value))]


@pytest.mark.parametrize("target", [*named_code(PACKAGE / "plugins.py"), *named_code(PACKAGE / "__init__.py")])
def test_a_string_that_names_code_resolves(target: str) -> None:
    module, separator, attribute = target.partition(":")
    if not separator and find_spec_or_none(module) is None:
        module, _, attribute = target.rpartition(".")
    assert find_spec_or_none(module) is not None, f"there is no module {module}"
    if attribute:
        assert hasattr(import_module(module), attribute), f"{module} has no {attribute}"


def find_spec_or_none(module: str) -> object | None:
    try:
        return find_spec(module)
    except ModuleNotFoundError:  # a parent is missing, or is no package
        return None


@pytest.mark.parametrize(("family", "name"), [(f, n) for f, table in plugins.TABLE.items() for n in table])
def test_a_plugin_loads_by_its_name(family: str, name: str) -> None:
    assert callable(plugins.load(family, name))


def test_the_entry_points_of_the_distribution_resolve() -> None:
    entries = [e for e in distribution("rayplane").entry_points if e.group != "console_scripts"]
    assert {e.group for e in entries} >= {"mlflow.request_auth_provider"}
    for entry in entries:
        assert callable(entry.load())


def modules_after(statement: str) -> set[str]:
    """Top-level modules that a new interpreter has loaded after a statement."""
    code = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_rayplane_imports_nothing_but_the_standard_library() -> None:
    assert modules_after("import rayplane") & (EXTRAS | {"httpx", "pydantic", "yaml", "typer"}) == set()


def test_the_gateway_imports_none_of_the_heavy_libraries() -> None:
    assert modules_after("import rayplane.gateway.__main__") & HEAVY == set()


def test_a_thin_client_imports_none_of_the_extras() -> None:
    assert modules_after("import rayplane.client.cli.main, rayplane.client.sdk") & EXTRAS == set()


def test_the_module_that_builds_a_served_application_imports_no_mlflow() -> None:
    assert modules_after("import rayplane.runtime.serving.app") & {"mlflow", "xgboost"} == set()


def test_the_runtime_loads_neither_settings_nor_the_other_rooms() -> None:
    names = [f"rayplane.runtime.{path.stem}" for path in (PACKAGE / "runtime").glob("[!_]*.py")]
    names += [f"rayplane.runtime.{path.parent.name}" for path in (PACKAGE / "runtime").glob("*/__init__.py")]
    code = f"import {', '.join(names)}, sys; print(*[name for name in sys.modules if name.startswith('rayplane.')])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    rooms = {name.split(".")[1] for name in done.stdout.split()}
    assert "runtime" in rooms
    assert rooms & {"settings", "processes", "gateway", "client", "testing"} == set()


def test_the_wheel_holds_rayplane_and_what_prometheus_needs_alone(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    info = f"rayplane-{rayplane.__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {"rayplane", info}
    assert "rayplane/client/up/prometheus/prometheus.yml" in names
    assert f"{info}/licenses/LICENSE" in names
    in_clone = {str(path.relative_to(PACKAGE.parent)) for path in PACKAGE.rglob("*.py")}
    assert in_clone <= set(names)


def test_the_distribution_has_the_packages_version() -> None:
    assert distribution("rayplane").version == rayplane.__version__


def test_the_decisions_are_numbered_without_a_gap_and_say_context_decision_and_consequences() -> None:
    decisions = sorted((ROOT / "docs" / "adr").glob("*.md"))
    assert [path.name[:4] for path in decisions] == [f"{number:04}" for number in range(1, len(decisions) + 1)]
    assert len(decisions) >= 12
    for path in decisions[1:]:
        assert re.findall(r"^## (.*)$", path.read_text(), re.MULTILINE) == ["Context", "Decision", "Consequences"], path
