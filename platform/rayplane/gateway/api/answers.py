"""Parts that routes share: models of documents and objects, ETags, preconditions, idempotency keys, 202 responses."""

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
from rayplane.gateway.store.typed import AnyObject
from rayplane.gateway.usecases.platform import Platform
from rayplane.nouns.base import Metadata, check_labels, parse
from rayplane.nouns.events import Operation
from rayplane.nouns.noun_type import AnyNoun


async def _platform(request: Request) -> Platform:  # async, as it never blocks: plain functions get a thread
    await lanes.enter(request.scope)
    platform: Platform = request.app.state.platform
    return platform


PlatformDep = Annotated[Platform, Depends(_platform)]
"""The app's platform. A route that may ask a backend gets it only after waiting for a thread of its lane."""


class Described:
    """Annotation that leaves a value unvalidated but documents it as ``model``.

    ``nouns.base.parse`` validates it instead: its errors name the wrong field and the nearest right one.
    """

    def __init__(self, model: type[BaseModel]) -> None:
        self._model = model

    def __get_pydantic_json_schema__(self, _: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(self._model.__pydantic_core_schema__)
        if self._model is Metadata:
            schema.pop("required", None)  # the URL names what the metadata leaves out
        return schema


def _literal(value: str) -> Any:
    return Literal[value]


def document_model(noun: AnyNoun, *, named: bool = True) -> type[BaseModel]:
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


def object_model(noun: AnyNoun) -> type[BaseModel]:
    """The response body of a noun: kind, metadata, spec, status."""
    return create_model(
        noun.kind,
        __doc__=f"A {noun.singular}: who it is, what was asked for, what is so.",
        kind=(_literal(noun.kind), ...),
        metadata=(Metadata, ...),
        spec=(noun.spec, ...),
        status=(noun.status, ...),
    )


def page_model(noun: AnyNoun, item: type[BaseModel], name: str = "List") -> type[BaseModel]:
    """A page of a noun's list."""
    return create_model(
        f"{noun.kind}{name}",
        __doc__=f"A page of {noun.plural}; ask again with next_cursor until it is null.",
        items=(list[item], ...),  # type: ignore[valid-type]
        next_cursor=(str | None, None),
    )


def summary_model(noun: AnyNoun) -> type[BaseModel]:
    """The model of one object in a list with view=summary."""
    return create_model(
        f"{noun.kind}Summary",
        __doc__=f"A {noun.singular} in a summary: who it is, and its phase.",
        kind=(_literal(noun.kind), ...),
        metadata=(Metadata, ...),
        phase=(str, ...),
    )


def metadata_of(body: dict[str, Any], noun: AnyNoun, team: str | None, name: str) -> Metadata:
    """The body's metadata, parsed.

    Raises InvalidInput if it names another object than the URL does, InvalidSpec for labels that can't be.
    """
    named, where = {"name": name, **body}, f"{noun.singular}.metadata"
    metadata = parse(Metadata, named, where)
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


def shown(obj: AnyObject, *, status: int = 200, headers: dict[str, str] | None = None) -> JSONResponse:
    """The response that shows one object, with its ETag."""
    return JSONResponse(
        obj.plain().model_dump(mode="json"), status_code=status, headers={"ETag": obj.etag, **(headers or {})}
    )


def shown_text(obj: ObjectText) -> Response:
    """The response that shows one object, with its ETag, as the store's JSON text."""
    return Response(obj.json, media_type="application/json", headers={"ETag": f'"{obj.version}"'})


def page_of(items: Sequence[str], next_cursor: str | None) -> Response:
    """The response that shows a page of objects, each of which is JSON text."""
    cursor = "null" if next_cursor is None else f'"{next_cursor}"'  # letters, digits, '-' and '_' alone
    return Response(f'{{"items":[{",".join(items)}],"next_cursor":{cursor}}}', media_type="application/json")


def written(obj: AnyObject, change: str, operation: Operation | None, *, dry_run: bool = False) -> JSONResponse:
    """The response to a write: 202 and Location if a reconciler has work to do, 201 if created, else 200."""
    headers = {"X-Change": change}
    status = 201 if change == "created" else 200
    if operation is not None:
        headers["Location"] = f"/v1/operations/{operation.id}"
        status = 202
    return shown(obj, status=200 if dry_run else status, headers=headers)


async def if_match(value: parameters.IfMatch = None) -> int | None:
    """The resource version that If-Match names; None for ``*`` or no header. Raises InvalidInput for a foreign ETag."""
    if value is None or value.strip() == "*":
        return None
    match = ETAG.fullmatch(value.strip())
    if match is None:
        raise InvalidInput(
            f"If-Match '{value[:60]}' is not an ETag of this API.", remedy='Send the ETag of a GET, such as "3".'
        )
    return int(match[1])


async def if_none_match(value: parameters.IfNoneMatch = None) -> bool:
    """True if If-None-Match is ``*``: the object must not exist yet. Raises InvalidInput for any other value."""
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
    """Return ``act()``, or its stored response if the same principal has sent this request with this key before.

    Raises Conflict if the key came with another request. A POST and its stored response are one transaction: a PUT or
    DELETE may be done twice, but a second POST would create a second object.
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
    """Do as ``once`` in two steps: ``prepare()`` may ask a backend, so it runs outside of the transaction.

    The function that it returns does the rest, within the transaction. Raises Conflict as ``once`` does.
    """
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
        # Look again inside the transaction: the same request may have arrived twice at the same time.
        answer = keyed.recall() or keyed.remember(act())
    # A reconciler that the use case woke may have looked before the commit.
    platform.wake()
    return answer


def _fingerprint(request: Request, body: Any) -> str:
    # Preconditions are part of the request: with another If-Match it is another request.
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
        """The stored response, if any; raises Conflict if the key came with another request."""
        uid = self.platform.uid_of_team(self.team)
        known = self.platform.store.recall(self.principal.name, self.key, self.fingerprint, team_uid=uid)
        if known is None:
            return None
        headers = {**known["headers"], "X-Replayed": "true"}
        return JSONResponse(known["body"], status_code=known["status"], headers=headers)

    def remember(self, answer: JSONResponse) -> JSONResponse:
        """Store the response, and return it."""
        headers = {name: value for name, value in answer.headers.items() if name in ("etag", "location", "x-change")}
        stored = {"status": answer.status_code, "headers": headers, "body": json.loads(bytes(answer.body))}
        uid = self.platform.uid_of_team(self.team)
        self.platform.store.remember(self.principal.name, self.key, self.fingerprint, stored, team_uid=uid)
        return answer


def labels_of(values: list[str] | None) -> dict[str, str] | None:
    """Parse ``["k=v", ...]`` to a mapping; None for none. Raises InvalidInput for too many or malformed labels."""
    if not values:
        return None
    if len(values) > MOST_LABELS:
        raise InvalidInput(f"{len(values)} labels are too many for one list.", remedy=f"Use {MOST_LABELS} at most.")
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
