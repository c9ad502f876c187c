"""Routes of a dataset's immutable versions."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from rayplane.gateway.api.answers import PlatformDep
from rayplane.gateway.api.auth import Caller
from rayplane.gateway.usecases import datasets
from rayplane.nouns.dataset import DatasetVersion

router = APIRouter(prefix="/v1/teams/{team}/datasets/{name}/versions", tags=["datasets"])


class DatasetVersionList(BaseModel):
    """A dataset's versions, newest first."""

    items: list[DatasetVersion]
    next_cursor: str | None = None


@router.get("", operation_id="list_dataset_versions", summary="List versions")
def list_versions(team: str, name: str, caller: Caller, platform: PlatformDep) -> DatasetVersionList:
    """Every version, newest first."""
    return DatasetVersionList(items=datasets.versions(team, name, principal=caller, platform=platform))


@router.get("/{version}", operation_id="get_dataset_version", summary="Get one version")
def get_version(team: str, name: str, version: str, caller: Caller, platform: PlatformDep) -> DatasetVersion:
    """One version; ``latest`` is the newest."""
    wanted = None if version == "latest" else version
    return datasets.version(team, name, wanted, principal=caller, platform=platform)
