"""HTTP connections that are no stream: each takes a file descriptor, and whoever opens sockets could take them all.

Invariants
- There are never so many sockets that the database's connections or a request to /livez find no descriptor. Where one
  more comes, the visitor that has been silent for longest is cut off.
- A visitor that has sent no whole request within HEAD_SECONDS is cut off, and so is one that has sent more than
  HEAD_BYTES of a request.
- A request that is being answered is never cut off.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from app.model.observations import Observer, SocketCut

HEAD_SECONDS: Final = 10.0  # for a first whole request
HEAD_BYTES: Final = 128 << 10  # of a request without its end: a URL may have half of it
SWEEP_SECONDS: Final = 1.0
_TOO_LARGE: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Visitors:
    """`most` sockets may be open, `streams` tells how many are streams now. Both count sockets of all addresses."""

    def __init__(self, most: int, streams: Callable[[], int], observe: Observer) -> None:
        self._most = most
        self._streams = streams
        self._observe = observe
        self._new: dict[RequestHandler, float] = {}  # since when; the oldest first, as in the others
        self._kept: dict[RequestHandler, None] = {}
        self._busy: set[RequestHandler] = set()
        self._sweep: asyncio.TimerHandle | None = None

    @property
    def busy(self) -> int:
        """Requests that are being answered."""
        return len(self._busy)

    def factory(self, server: web.Server) -> Callable[[], "Visitor"]:
        """What makes the protocol of each new connection, in place of `server`."""
        return lambda: Visitor(self, server, loop=asyncio.get_running_loop(), **server._kwargs)

    def arrive(self, visitor: "Visitor") -> None:
        """A connection has been accepted."""
        loop = asyncio.get_running_loop()
        if len(self._new) + len(self._kept) + len(self._busy) + self._streams() >= self._most:
            silent = next(iter(self._new or self._kept), visitor)
            self._cut(silent, "crowded")
            if silent is visitor:
                return
        self._new[visitor] = loop.time()
        if self._sweep is None:
            self._sweep = loop.call_later(SWEEP_SECONDS, self._cut_silent)

    def begin_request(self, visitor: RequestHandler) -> None:
        """A whole request has come."""
        self._forget(visitor)
        self._busy.add(visitor)

    def end_request(self, visitor: RequestHandler) -> None:
        if visitor in self._busy:
            self._busy.discard(visitor)
            self._kept[visitor] = None

    def leave(self, visitor: RequestHandler) -> None:
        """The connection has ended, or its socket is a stream's."""
        self._forget(visitor)
        self._busy.discard(visitor)

    def close(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()

    def refuse_head(self, visitor: "Visitor") -> None:
        if visitor.transport is not None:
            visitor.transport.write(_TOO_LARGE)
            visitor.force_close()
            self._observe(SocketCut("too_large"))

    def _forget(self, visitor: RequestHandler) -> None:
        self._new.pop(visitor, None)
        self._kept.pop(visitor, None)

    def _cut(self, visitor: RequestHandler, reason: str) -> None:
        self._forget(visitor)
        if visitor.transport is not None:
            visitor.transport.abort()
            self._observe(SocketCut(reason))

    def _cut_silent(self) -> None:
        loop = asyncio.get_running_loop()
        late = loop.time() - HEAD_SECONDS
        for visitor in [visitor for visitor, since in self._new.items() if since <= late]:
            self._cut(visitor, "silent")
        self._sweep = loop.call_later(SWEEP_SECONDS, self._cut_silent) if self._new else None


class Visitor(RequestHandler):
    """aiohttp's side of one connection, which tells the Visitors of its beginning and its end."""

    __slots__ = ("_unread", "_visitors")

    def __init__(self, visitors: Visitors, manager: web.Server, **kwargs: Any) -> None:
        super().__init__(manager, **kwargs)
        self._visitors = visitors
        self._unread = 0  # bytes of a request whose head has no end yet

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._visitors.arrive(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._visitors.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        requests = self._request_count
        super().data_received(data)
        if self._request_count != requests or self._current_request is not None or self._upgraded:
            self._unread = 0
            return
        self._unread += len(data)
        if self._unread > HEAD_BYTES:
            self._visitors.refuse_head(self)
