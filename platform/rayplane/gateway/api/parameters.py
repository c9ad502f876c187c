"""Types of path, query and header parameters: each checks its parameter, and documents it."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import Header, Query
from pydantic import Field

from rayplane.gateway.store.paging import CURSOR, LONGEST_CURSOR, MAX_LIMIT
from rayplane.gateway.store.texts import View
from rayplane.nouns.base import Name
from rayplane.nouns.team import RecordedTeam, TeamName
from rayplane.text import PLAIN, UNSAFE

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
"""A SHA-256 in hexadecimal."""
OperationId = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
Version = Annotated[str, Field(min_length=1)]
RayPackage = Annotated[str, Field(pattern="^[A-Za-z0-9_][A-Za-z0-9_.-]{1,199}$")]
SubmissionId = Annotated[str, Field(min_length=1)]

MOST_LABELS = 20
"""Maximum labels in the filter of one list."""
_LABEL = f'^[^{UNSAFE}"\\\\=]+=[^{UNSAFE}]*$'
# No more digits than a version has. Not str.isdigit, which accepts a superscript as a digit.
ETAG = re.compile(r'^(?:W/)?"?([0-9]{1,19})"?$')

Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="The most items to answer with.")]
ListView = Annotated[
    View, Query(description="Whether items are whole objects, or tell only who each is and its phase.")
]
Cursor = Annotated[
    str | None,
    Query(
        description="The next_cursor of an earlier answer; it is opaque.",
        json_schema_extra={"pattern": CURSOR, "maxLength": LONGEST_CURSOR},
    ),
]
Labels = Annotated[
    list[str] | None,
    Query(
        alias="label",
        description="Only objects with this label (k=v); may repeat.",
        json_schema_extra={"items": {"type": "string", "pattern": _LABEL}, "maxItems": MOST_LABELS},
    ),
]
Node = Annotated[
    str,
    Query(pattern=PLAIN, min_length=1, description="Such as dataset:<name>@<version> or model:<name>/<version>."),
]
OfTeam = Annotated[TeamName | None, Query(description="Only for principals of no team.")]
IfMatch = Annotated[
    str | None,
    Header(
        alias="If-Match",
        description="Only if the object is at this version: an ETag of this API, or *.",
        json_schema_extra={"pattern": f"{ETAG.pattern}|^\\*$"},
    ),
]
IfNoneMatch = Annotated[
    str | None,
    Header(
        alias="If-None-Match",
        description="With *: only if the object is not there yet.",
        json_schema_extra={"enum": ["*"]},
    ),
]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern="^[!-~]{1,200}$",
        description="A repeated request with this key gets the first answer. Visible ASCII.",
    ),
]

PATH_PARAMETERS: dict[str, tuple[str, Any]] = {
    "team": ("The team's name.", TeamName),
    "name": ("The object's name.", Name),
    "cluster": ("The cluster's name.", Name),
    "run": ("The run's name.", Name),
    "version": ("The version, or latest.", Version),
    "id": ("The id, as Location names it.", OperationId),
    "sha256": ("The package's SHA-256.", Sha256),
    "protocol": ("The protocol of the package's URI.", Annotated[str, Field(pattern="^gcs$")]),
    "package_name": ("The name that Ray's client gave the package.", RayPackage),
    "job_or_submission_id": ("The id that the client gave the job, or the job's name.", SubmissionId),
}
"""Name -> (description, type). A value not of the type names nothing: 404, unless the route would create it."""
RECORDED_TEAM = ("The team's name, or that under which the records of a deleted one are kept.", RecordedTeam)
"""(description, type) of ``team`` in the routes that read the records of deleted teams too."""
RECORDS = frozenset({"list_leases", "list_audit", "get_usage"})
"""Operation ids of those routes."""
