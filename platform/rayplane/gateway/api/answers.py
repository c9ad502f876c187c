"""What routes share: documents and objects in the OpenAPI schema, ETags, preconditions, idempotency keys, 202s."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import Depends, Request
from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, create_model
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from starlette.responses import JSONResponse, Response

from rayplane.errors import InvalidInput, InvalidSpec
from rayplane.gateway.admission.roles import Principal
from rayplane.gateway.api import lanes, parameters
from rayplane.gateway.api.parameters import ETAG, MOST_LABELS
from rayplane.gateway.store.texts import ObjectText
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns.base import Metadata, NounType, Object, check_labels, parse
from rayplane.nouns.events import Operation


async def _platform(request: Request) -> Platform:  # async, as all that never waits: FastAPI gives others a thread
    await lanes.enter(request.scope)
    platform: Platform = request.app.state.platform
    return platform


Here = Annotated[Platform, Depends(_platform)]
"""The platform that the app was made for; a route that may be slow waits for its turn before it gets it."""


class Described:
    """Keeps a value plain and documents it as ``model``: our own parser names the wrong field and the right one."""

    def __init__(self, model: type[BaseModel]) -> None:
        self._model = model

    def __get_pydantic_json_schema__(self, _: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(self._model.__pydantic_core_schema__)
        if self._model is Metadata:
            schema.pop("required", None)  # what the metadata leave out, the URL says
        return schema


def _literal(value: str) -> Any:
    return Literal[value]


def document_model(noun: NounType, *, named: bool = True) -> type[BaseModel]:
    """The request body of a noun: ``{kind?, metadata?, spec}``."""
    return create_model(
        f"{noun.kind}{'Document' if named else 'Submission'}",
        __config__=ConfigDict(extra="forbid"),
        __doc__=f"A {noun.singular} as it is asked for.",
        kind=(_literal(noun.kind) | None, None),
        metadata=(Annotated[dict[str, Any], Described(Metadata)], Field(default_factory=dict)),
        spec=(
            Annotated[dict[str, Any], Described(noun.spec)],
            ... if any(f.is_required() for f in noun.spec.model_fields.values()) else Field(default_factory=dict),
        ),
    )


def object_model(noun: NounType) -> type[BaseModel]:
    """The answer's body of a noun: kind, metadata, spec, status."""
    return create_model(
        noun.kind,
        __doc__=f"A {noun.singular}: who it is, what was asked for, what is so.",
        kind=(_literal(noun.kind), ...),
        metadata=(Metadata, ...),
        spec=(noun.spec, ...),
        status=(noun.status, ...),
    )


def page_model(noun: NounType, item: type[BaseModel], name: str = "List") -> type[BaseModel]:
    """A page of a noun's list."""
    return create_model(
        f"{noun.kind}{name}",
        __doc__=f"A page of {noun.plural}; ask again with next_cursor until it is null.",
        items=(list[item], ...),  # type: ignore[valid-type]
        next_cursor=(str | None, None),
    )


def summary_model(noun: NounType) -> type[BaseModel]:
    """What a list with view=summary has of an object."""
    return create_model(
        f"{noun.kind}Summary",
        __doc__=f"A {noun.singular} in a summary: who it is, and its phase.",
        kind=(_literal(noun.kind), ...),
        metadata=(Metadata, ...),
        phase=(str, ...),
    )


def metadata_of(body: dict[str, Any], noun: NounType, team: str | None, name: str) -> Metadata:
    """The body's metadata, parsed; raises InvalidInput if they name another object than the URL does."""
    given, where = {"name": name, **body}, f"{noun.singular}.metadata"
    metadata = parse(Metadata, given, where)
    try:
        check_labels(metadata.labels)
    except ValueError as exc:
        raise InvalidSpec(f"{where}.labels: {exc}.") from exc
    if metadata.name != name:
        raise InvalidInput(
            f"metadata.name is '{metadata.name}', but the URL says '{name}'.",
            remedy="Make them equal, or leave it out.",
        )
    if noun.team_scoped and metadata.team not in (None, team):
        raise InvalidInput(
            f"metadata.team is '{metadata.team}', but the URL says '{team}'.",
            remedy="Make them equal, or leave it out.",
        )
    return metadata


def shown(obj: Object, *, status: int = 200, headers: dict[str, str] | None = None) -> JSONResponse:
    """One object with its ETag."""
    return JSONResponse(obj.model_dump(mode="json"), status_code=status, headers={"ETag": obj.etag, **(headers or {})})


def shown_text(found: ObjectText) -> Response:
    """One object with its ETag, as the store has it."""
    return Response(found.json, media_type="application/json", headers={"ETag": f'"{found.version}"'})


def page_of(items: Sequence[str], next_cursor: str | None) -> Response:
    """A page of objects, each of which is JSON."""
    cursor = "null" if next_cursor is None else f'"{next_cursor}"'  # letters, digits, '-' and '_' alone
    return Response(f'{{"items":[{",".join(items)}],"next_cursor":{cursor}}}', media_type="application/json")


def written(obj: Object, change: str, operation: Operation | None, *, dry_run: bool = False) -> JSONResponse:
    """The answer to a write: 202 and Location if there is work to do, 201 if made, else 200; X-Change tells which."""
    headers = {"X-Change": change}
    status = 201 if change == "created" else 200
    if operation is not None:
        headers["Location"] = f"/v1/operations/{operation.id}"
        status = 202
    return shown(obj, status=200 if dry_run else status, headers=headers)


async def if_match(value: parameters.IfMatch = None) -> int | None:
    """The resource version of If-Match; ``*`` and none mean any. Raises InvalidInput for what is no ETag of ours."""
    if value is None or value.strip() == "*":
        return None
    match = ETAG.fullmatch(value.strip())
    if match is None:
        raise InvalidInput(
            f"If-Match '{value[:60]}' is not an ETag of this API.", remedy='Send the ETag of a GET, such as "3".'
        )
    return int(match[1])


async def if_none_match(value: parameters.IfNoneMatch = None) -> bool:
    """Whether the object must not be there yet (``*``). Raises InvalidInput for anything else."""
    if value is None:
        return False
    if value.strip() != "*":
        raise InvalidInput(
            f"If-None-Match '{value[:60]}' is not understood.",
            remedy="Send * to make what is not there yet, or If-Match to change what is.",
        )
    return True


IfNoneMatch = Annotated[bool, Depends(if_none_match)]
IfMatch = Annotated[int | None, Depends(if_match)]


def once(
    key: str | None,
    request: Request,
    body: Any,
    act: Callable[[], JSONResponse],
    *,
    principal: Principal,
    platform: Platform,
) -> JSONResponse:
    """``act()``, or the answer that it gave when the same principal sent the same request with this key before.

    Raises Conflict if the key came with another request. A POST and its remembered answer are one transaction: a PUT or
    DELETE may be done twice, but a second POST would make a second thing.
    """
    return once_prepared(key, request, body, lambda: act, principal=principal, platform=platform)


def once_prepared(
    key: str | None,
    request: Request,
    body: Any,
    prepare: Callable[[], Callable[[], JSONResponse]],
    *,
    principal: Principal,
    platform: Platform,
) -> JSONResponse:
    """The same of a request that takes two steps: ``prepare()`` may ask a backend, so it runs outside of the
    transaction; what it answers with is the rest, which runs within."""
    if key is None:
        return prepare()()
    keyed = _Keyed(key, _fingerprint(request, body), str(request.path_params.get("team", "")), principal, platform)
    replay = keyed.recall()
    if replay is not None:
        return replay
    act = prepare()
    if request.method != "POST":
        return keyed.remember(act())
    with platform.store.transaction():
        # Once more, now that no other writer comes between: the same request may have come twice at once.
        answer = keyed.recall() or keyed.remember(act())
    # What the use case woke may have looked before the commit.
    platform.wake()
    return answer


def _fingerprint(request: Request, body: Any) -> str:
    # What must be so for the request to count belongs to it: with another If-Match it is another request.
    conditions = [request.headers[name] for name in ("if-match", "if-none-match") if name in request.headers]
    text = json.dumps(
        [request.method, str(request.url.path), str(request.url.query), body, *conditions], sort_keys=True, default=str
    )
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class _Keyed:
    """A request with an idempotency key."""

    key: str
    fingerprint: str
    team: str
    principal: Principal
    platform: Platform

    def recall(self) -> JSONResponse | None:
        """The answer that was kept for it; raises Conflict if the key came with another request."""
        uid = self.platform.uid_of_team(self.team)
        known = self.platform.store.recall(self.principal.name, self.key, self.fingerprint, team_uid=uid)
        if known is None:
            return None
        headers = {**known["headers"], "X-Replayed": "true"}
        return JSONResponse(known["body"], status_code=known["status"], headers=headers)

    def remember(self, answer: JSONResponse) -> JSONResponse:
        """Keep its answer, and give it back."""
        headers = {name: value for name, value in answer.headers.items() if name in ("etag", "location", "x-change")}
        kept = {"status": answer.status_code, "headers": headers, "body": json.loads(bytes(answer.body))}
        uid = self.platform.uid_of_team(self.team)
        self.platform.store.remember(self.principal.name, self.key, self.fingerprint, kept, team_uid=uid)
        return answer


def labels_of(values: list[str] | None) -> dict[str, str] | None:
    """``["k=v", ...]`` as a mapping; None for none."""
    if not values:
        return None
    if len(values) > MOST_LABELS:
        raise InvalidInput(f"{len(values)} labels are asked for.", remedy=f"Ask for {MOST_LABELS} at most.")
    labels = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not (key and equals):
            raise InvalidInput(f"label '{value[:60]}' is not k=v.", remedy="Write it as label=key=value.")
        labels[key] = text
    try:
        check_labels(labels)
    except ValueError as exc:
        raise InvalidInput(f"{exc}.", remedy="Write it as label=key=value.") from exc
    return labels
