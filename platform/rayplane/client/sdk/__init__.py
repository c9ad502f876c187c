"""The gateway's API in Python: one attribute per noun, plain objects as results, exceptions of ``rayplane.errors``."""

from __future__ import annotations

from rayplane.client.sdk.apply import Change
from rayplane.client.sdk.client import Client
from rayplane.client.sdk.clock import Clock
from rayplane.client.sdk.documents import read_documents
from rayplane.client.sdk.nouns import Clusters, Datasets, Jobs, Noun, Pipelines, Teams
from rayplane.client.sdk.packages import Packages
from rayplane.client.sdk.waiting import Progress, why
from rayplane.nouns.base import Object

__all__ = [
    "Change",
    "Client",
    "Clock",
    "Clusters",
    "Datasets",
    "Jobs",
    "Noun",
    "Object",
    "Packages",
    "Pipelines",
    "Progress",
    "Teams",
    "read_documents",
    "why",
]
