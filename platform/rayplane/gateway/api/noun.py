"""Routes of the common verbs of all nouns (list, get, why, put, delete), generated from the table of nouns."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request
from starlette.responses import JSONResponse, Response

from rayplane.gateway.api.answers import (
    IfMatch,
    IfNoneMatch,
    PlatformDep,
    document_model,
    labels_of,
    metadata_of,
    object_model,
    once,
    page_model,
    page_of,
    shown,
    shown_text,
    summary_model,
    written,
)
from rayplane.gateway.api.auth import Caller
from rayplane.gateway.api.parameters import Cursor, IdempotencyKey, Labels, Limit, ListView
from rayplane.gateway.store.texts import View
from rayplane.gateway.usecases import objects, why
from rayplane.nouns import NOUNS
from rayplane.nouns.noun_type import AnyNoun
from rayplane.nouns.team import Data
from rayplane.nouns.why import Explanation

OBJECT_MODELS = {noun.kind: object_model(noun) for noun in NOUNS}
"""Kind -> the model of its response bodies, for the routes of a noun's own verbs."""

DryRun = Annotated[bool, Query(description="Check everything and say what would change, but write nothing.")]
DataOf = Annotated[
    Data | None,
    Query(alias="data", description="What becomes of the team's data: archived unless it is to be purged."),
]


@cache
def router() -> APIRouter:
    """Routes of all eight nouns; built once, since building them takes longer than the rest of the app."""
    routes = APIRouter(prefix="/v1")
    for noun in NOUNS:
        _add(routes, noun)
    return routes


def _add(routes: APIRouter, noun: AnyNoun) -> None:
    base = f"/teams/{{team}}/{noun.plural}" if noun.team_scoped else f"/{noun.plural}"
    item = f"{base}/{{name}}" if noun.team_scoped else f"{base}/{{team}}"
    body, answer = document_model(noun), OBJECT_MODELS[noun.kind]
    routes.add_api_route(
        base,
        _lister(noun),
        methods=["GET"],
        name=f"list_{noun.plural}",
        operation_id=f"list_{noun.plural}",
        summary=f"List {noun.plural}",
        tags=[noun.plural],
        responses={200: {"model": page_model(noun, answer) | page_model(noun, summary_model(noun), "SummaryList")}},
    )
    routes.add_api_route(
        item,
        _getter(noun),
        methods=["GET"],
        name=f"get_{noun.singular}",
        operation_id=f"get_{noun.singular}",
        summary=f"Get one {noun.singular}",
        tags=[noun.plural],
        responses={200: {"model": answer}},
    )
    routes.add_api_route(
        f"{item}/why",
        _explainer(noun),
        methods=["GET"],
        name=f"why_{noun.singular}",
        operation_id=f"why_{noun.singular}",
        summary=f"Why a {noun.singular} is not as wanted",
        tags=[noun.plural],
        responses={200: {"model": Explanation, "description": "Causes, ranked; none for one that is as wanted."}},
    )
    routes.add_api_route(
        item,
        _putter(noun, body),
        methods=["PUT"],
        name=f"put_{noun.singular}",
        operation_id=f"put_{noun.singular}",
        summary=f"Make or change a {noun.singular}",
        tags=[noun.plural],
        responses={
            200: {"model": answer, "description": "Changed, or as it was."},
            201: {"model": answer, "description": "Made."},
            202: {"model": answer, "description": "Wanted; Location names the operation that makes it so."},
        },
    )
    routes.add_api_route(
        item,
        _deleter(noun),
        methods=["DELETE"],
        name=f"delete_{noun.singular}",
        operation_id=f"delete_{noun.singular}",
        summary=f"Delete a {noun.singular}",
        tags=[noun.plural],
        status_code=202,
        responses={202: {"model": answer, "description": "It will be taken down; Location names the operation."}},
    )


def _lister(noun: AnyNoun) -> Any:
    def act(
        team: str | None,
        labels: list[str] | None,
        limit: int,
        cursor: str | None,
        view: View,
        caller: Caller,
        platform: PlatformDep,
    ) -> Response:
        page = objects.list(
            noun.kind,
            team,
            labels=labels_of(labels),
            limit=limit,
            cursor=cursor,
            view=view,
            principal=caller,
            platform=platform,
        )
        return page_of(page.items, page.next_cursor)

    def of_team(
        team: str,
        caller: Caller,
        platform: PlatformDep,
        label: Labels = None,
        limit: Limit = 100,
        cursor: Cursor = None,
        view: ListView = "full",
    ) -> Response:
        return act(team, label, limit, cursor, view, caller, platform)

    def of_all(
        caller: Caller,
        platform: PlatformDep,
        label: Labels = None,
        limit: Limit = 100,
        cursor: Cursor = None,
        view: ListView = "full",
    ) -> Response:
        return act(None, label, limit, cursor, view, caller, platform)

    return of_team if noun.team_scoped else of_all


def _getter(noun: AnyNoun) -> Any:
    def of_team(team: str, name: str, caller: Caller, platform: PlatformDep) -> Response:
        return shown_text(objects.text(noun.kind, team, name, principal=caller, platform=platform))

    def of_all(team: str, caller: Caller, platform: PlatformDep) -> Response:
        return shown_text(objects.text(noun.kind, "", team, principal=caller, platform=platform))

    return of_team if noun.team_scoped else of_all


def _explainer(noun: AnyNoun) -> Any:
    def of_team(team: str, name: str, caller: Caller, platform: PlatformDep) -> JSONResponse:
        return JSONResponse(
            why.explain(noun.kind, team, name, principal=caller, platform=platform).model_dump(mode="json")
        )

    def of_all(team: str, caller: Caller, platform: PlatformDep) -> JSONResponse:
        return JSONResponse(
            why.explain(noun.kind, "", team, principal=caller, platform=platform).model_dump(mode="json")
        )

    return of_team if noun.team_scoped else of_all


def _putter(noun: AnyNoun, body_model: Any) -> Any:
    def act(
        request: Request, team: str, name: str, body: Any, precondition: int | None, new: bool, dry_run: bool,
        key: str | None, caller: Caller, platform: PlatformDep,
    ) -> JSONResponse:  # fmt: skip
        document = body.model_dump()

        def write() -> JSONResponse:
            metadata = metadata_of(document["metadata"], noun, team or None, name)
            obj, change, operation = objects.apply(
                noun.kind,
                team,
                name,
                document["spec"],
                labels=metadata.labels,
                principal=caller,
                platform=platform,
                if_match=precondition,
                if_absent=new,
                dry_run=dry_run,
            )
            return written(obj, change, operation, dry_run=dry_run)

        return once(None if dry_run else key, request, document, write, principal=caller, platform=platform)

    def of_team(
        request: Request,
        team: str,
        name: str,
        body: Annotated[Any, Body()],
        caller: Caller,
        platform: PlatformDep,
        precondition: IfMatch,
        new: IfNoneMatch,
        dry_run: DryRun = False,
        key: IdempotencyKey = None,
    ) -> JSONResponse:
        return act(request, team, name, body, precondition, new, dry_run, key, caller, platform)

    def of_all(
        request: Request,
        team: str,
        body: Annotated[Any, Body()],
        caller: Caller,
        platform: PlatformDep,
        precondition: IfMatch,
        new: IfNoneMatch,
        dry_run: DryRun = False,
        key: IdempotencyKey = None,
    ) -> JSONResponse:
        return act(request, "", team, body, precondition, new, dry_run, key, caller, platform)

    chosen = of_team if noun.team_scoped else of_all
    # Set the annotation here: only here the noun's own model is known.
    chosen.__annotations__["body"] = Annotated[body_model, Body()]
    return chosen


def _deleter(noun: AnyNoun) -> Any:
    def act(
        request: Request,
        team: str,
        name: str,
        precondition: int | None,
        key: str | None,
        caller: Caller,
        platform: PlatformDep,
        data: Data | None = None,
    ) -> JSONResponse:
        def write() -> JSONResponse:
            obj, operation = objects.delete(
                noun.kind, team, name, principal=caller, platform=platform, if_match=precondition, data=data
            )
            return shown(obj, status=202, headers={"Location": f"/v1/operations/{operation.id}"})

        return once(key, request, None, write, principal=caller, platform=platform)

    def of_team(
        request: Request,
        team: str,
        name: str,
        caller: Caller,
        platform: PlatformDep,
        precondition: IfMatch,
        key: IdempotencyKey = None,
    ) -> JSONResponse:
        return act(request, team, name, precondition, key, caller, platform)

    def of_all(
        request: Request,
        team: str,
        caller: Caller,
        platform: PlatformDep,
        precondition: IfMatch,
        data: DataOf = None,
        key: IdempotencyKey = None,
    ) -> JSONResponse:
        return act(request, "", team, precondition, key, caller, platform, data)

    return of_team if noun.team_scoped else of_all
