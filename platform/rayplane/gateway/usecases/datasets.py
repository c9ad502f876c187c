"""Datasets: list and get their versions; delete their data."""

from __future__ import annotations

from rayplane.gateway.admission.roles import Principal, authorize
from rayplane.gateway.store.typed import AnyObject
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns import DATASET
from rayplane.nouns.dataset import DatasetVersion
from rayplane.storage import layout


def versions(team: str, name: str, *, principal: Principal, platform: Platform) -> list[DatasetVersion]:
    """The versions of a dataset, newest first; raises NotFound for an unknown dataset."""
    authorize(principal, "read", team)
    platform.store.get(DATASET, team, name)
    return platform.store.list_dataset_versions(team, name)


def version(team: str, name: str, wanted: str | None, *, principal: Principal, platform: Platform) -> DatasetVersion:
    """One version (None: the newest); raises NotFound for an unknown dataset or version."""
    authorize(principal, "read", team)
    platform.store.get(DATASET, team, name)
    return platform.store.get_dataset_version(team, name, wanted)


def take_down(dataset: AnyObject, platform: Platform) -> None:
    """Delete every version's data, then the records of the versions; lineage stays.

    A second call, after a crash of the first, completes the deletion.
    """
    team, name = dataset.team, dataset.metadata.name
    platform.storage.delete(layout.dataset(team, name))
    platform.store.forget_dataset_versions(team, name)
