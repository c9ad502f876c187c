"""The gateway's HTTP connections on httptools, which is in C and has no limits of its own."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from rayplane.gateway.api.connections import Bounded

MOST_PIPELINED = 16
"""Requests that may wait on a connection for the answer to the one before: uvicorn reads on after each answer."""


class BoundedHttpTools(Bounded, HttpToolsProtocol):
    """Counts the bytes of which the parser has made nothing yet: a line, headers, a chunk's head, a body's trailers.

    It hands a header on only once it has all of it, and it joins a part that comes to what it has.
    """

    _unmade = 0
    _in_body = False

    @property
    def in_body(self) -> bool:
        return self._in_body

    @property
    def head_is_too_long(self) -> bool:
        return self._unmade > self.door.limits.head_bytes

    def data_received(self, data: bytes) -> None:
        self._unmade += len(data)
        super().data_received(data)

    def on_headers_complete(self) -> None:
        """Called by the parser; raises OverflowError where too many wait, which ends the parser: 400, closed."""
        if len(self.pipeline) >= MOST_PIPELINED:
            raise OverflowError("too many requests wait on one connection")
        self._unmade, self._in_body = 0, True
        super().on_headers_complete()

    def on_chunk_header(self) -> None:
        """Called by the parser."""
        self._unmade = 0

    def on_body(self, body: bytes) -> None:
        self._unmade = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unmade, self._in_body = 0, False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.answered()
