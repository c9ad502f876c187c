"""Send requests to a gateway: one connection, retries, idempotency keys, lists page by page.

All errors are of ``rayplane.errors``. Knows no noun.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from rayplane import errors
from rayplane.client.sdk import address
from rayplane.client.sdk.answers import Page, error_of, not_a_gateway, pause_of
from rayplane.client.sdk.clock import Clock

BUSY_PATIENCE = 30.0
"""Seconds for which a request is sent again while the gateway is busy."""
_TIMEOUT = httpx.Timeout(30.0, connect=5.0, write=300.0)
_RETRIES = 2
M = TypeVar("M", bound=BaseModel)


class Transport:
    """A connection to one gateway. Nothing is read or sent before the first request."""

    def __init__(
        self, url: str | None = None, token_path: str | Path | None = None, *, clock: Clock | None = None
    ) -> None:
        self._given_url, self._given_token_path = url, token_path
        self._http: httpx.Client | None = None
        self.clock = clock or Clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the client may be used again."""
        if self._http is not None:
            self._http.close()
            self._http = None

    @property
    def url(self) -> str:
        """The gateway's URL; raises Unavailable if none is known, InvalidInput if it is no URL."""
        return address.gateway_url(self._given_url)

    @property
    def token_path(self) -> Path:
        """Path of the token's file."""
        return address.token_path(self._given_token_path)

    @property
    def token(self) -> str:
        """The token; raises InvalidInput if its file is missing, others may read it, or it holds no token."""
        return address.read_token(self.token_path)

    def pages(self, path: str, params: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Every item of a list, page by page."""
        cursor: str | None = None
        while True:
            asked = {**params, "limit": 500, **({"cursor": cursor} if cursor else {})}
            page = self.read(Page, "GET", path, params=asked)
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return

    def json(self, method: str, path: str, **options: Any) -> Any:
        """Send a request and return the answer's JSON; raises Unavailable if the answer is not JSON."""
        answer = self.request(method, path, **options)
        try:
            return answer.json()
        except ValueError as exc:
            raise not_a_gateway(answer) from exc

    def read(self, model: type[M], method: str, path: str, **options: Any) -> M:
        """Send a request and parse the answer as ``model``; raises Unavailable if it does not fit that."""
        answer = self.request(method, path, **options)
        try:
            return model.model_validate_json(answer.content)
        except ValidationError as exc:
            raise not_a_gateway(answer) from exc

    def request(
        self,
        method: str,
        path: str,
        *,
        json_body: Any = None,
        content: bytes | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Send a request; writes carry an idempotency key, so that a retry after a lost answer does no harm.

        Where the gateway is busy (429 or 503 with ``Retry-After``) it is sent again, for half a minute in all.
        """
        url = self.url + path  # before the token: where no platform was started, the error should say so
        sent = {"Authorization": f"Bearer {self.token}", **(headers or {})}
        if method in ("POST", "PUT", "DELETE") and content is None:
            sent.setdefault("Idempotency-Key", uuid.uuid4().hex)
        gives_up = self.clock.now() + BUSY_PATIENCE
        while True:
            answer = self._exchange(method, path, url, json=json_body, content=content, params=params, headers=sent)
            if answer.is_success:
                return answer
            pause = pause_of(answer)
            if pause is None or content is not None or self.clock.now() + pause > gives_up:
                raise error_of(answer)
            self.clock.sleep(pause)

    def _exchange(self, method: str, path: str, url: str, **options: Any) -> httpx.Response:
        """Send a request until any answer comes back, a few times."""
        for attempt in range(_RETRIES + 1):
            try:
                return self._connection().request(method, url, **options)
            except httpx.ConnectError as exc:
                raise self._unreachable(exc) from exc
            except httpx.TimeoutException as exc:
                raise errors.Timeout(
                    f"The gateway at {self.url} did not answer {method} {path} in time.", remedy="Try again."
                ) from exc
            except httpx.RequestError as exc:  # the transport failed, or the answer is encoded wrongly
                if attempt == _RETRIES:
                    raise self._unreachable(exc) from exc
                self.clock.sleep(0.2 * (attempt + 1))
        raise AssertionError("the last attempt returns or raises")

    def _connection(self) -> httpx.Client:
        if self._http is None:
            # Ignore HTTP proxies of the environment: only the gateway may get the token.
            self._http = httpx.Client(timeout=_TIMEOUT, trust_env=False)
        return self._http

    def _unreachable(self, exc: Exception) -> errors.Unavailable:
        return errors.Unavailable(f"The gateway at {self.url} can't be reached ({exc}).", remedy="Run 'rayplane up'.")
