"""The gateway's HTTP connections on httptools, a parser in C that has no limits of its own."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from rayplane.gateway.api.connections import Bounded

MOST_PIPELINED = 16
"""Maximum pipelined requests that wait on a connection: uvicorn reads on after each response."""


class BoundedHttpTools(Bounded, HttpToolsProtocol):
    """Counts the bytes that the parser has buffered: a request line, headers, a chunk's head, a body's trailers.

    The parser reports a header only once it is complete, and appends each new part to what it has.
    """

    _buffered = 0
    _in_body = False

    @property
    def in_body(self) -> bool:
        return self._in_body

    @property
    def head_is_too_long(self) -> bool:
        return self._buffered > self.door.limits.head_bytes

    def data_received(self, data: bytes) -> None:
        self._buffered += len(data)
        super().data_received(data)

    def on_headers_complete(self) -> None:
        """Called by the parser. Raises OverflowError if too many requests wait, so that uvicorn answers 400."""
        if len(self.pipeline) >= MOST_PIPELINED:
            raise OverflowError("too many requests wait on one connection")
        self._buffered, self._in_body = 0, True
        super().on_headers_complete()

    def on_chunk_header(self) -> None:
        """Called by the parser."""
        self._buffered = 0

    def on_body(self, body: bytes) -> None:
        self._buffered = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._buffered, self._in_body = 0, False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.answered()
