"""Distributions that are installed for one test: their metadata in a folder of the import path, as pip writes it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

THIRD_PARTY = Path(__file__).parents[1] / "third_party"
"""A distribution with a plug-in of each family."""


def install(
    patch: pytest.MonkeyPatch,
    site: Path,
    name: str,
    entry_points: Mapping[str, Mapping[str, str]],
    version: str = "1.0",
) -> None:
    """Write a distribution's metadata below ``site`` and put ``site`` on the import path until the patch is undone.

    ``entry_points``: group -> name -> ``module:attribute``.
    """
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    groups = [
        "\n".join([f"[{group}]", *(f"{entry} = {code}" for entry, code in entries.items())])
        for group, entries in entry_points.items()
    ]
    (info / "entry_points.txt").write_text("\n\n".join(groups) + "\n")
    patch.syspath_prepend(str(site))


def install_third_party(patch: pytest.MonkeyPatch, site: Path) -> dict[str, dict[str, str]]:
    """Install ``tests/third_party`` as an editable install does; returns its entry points by family."""
    project = tomllib.loads((THIRD_PARTY / "pyproject.toml").read_text())["project"]
    patch.syspath_prepend(str(THIRD_PARTY))
    install(patch, site, project["name"], project["entry-points"], project["version"])
    return {group.removeprefix("rayplane."): entries for group, entries in project["entry-points"].items()}
