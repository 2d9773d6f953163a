"""A client's socket once its request has been answered: taken over from aiohttp, which keeps some ten kilobytes of each
request that a stream never needs again (docs/decisions/0008).

Invariants
- What came after the request's head is handed on, once.
- From the takeover on, whoever is told `left` lets go of everything.
- `drained` returns only when something may be written, or when the client has gone.
"""

import asyncio
from collections.abc import Callable
from typing import NoReturn

from aiohttp import web


class Peer(asyncio.Protocol):
    """`open` is false until the takeover: until then `drained` waits. `full` is true while asyncio's transport wants
    nothing more. When it wants more again, `more` is called before those are woken who wait for `drained`."""

    __slots__ = ("_hear", "_left", "_waiting", "full", "lost", "more", "open")

    def __init__(self) -> None:
        self._hear: Callable[[bytes], None] | None = None
        self._left: Callable[[], None] | None = None
        self.full = False
        self.more: Callable[[], None] | None = None
        self._waiting: list[asyncio.Future[None]] | None = None
        self.open = False
        self.lost = False

    def take(
        self, request: web.Request, *, hear: Callable[[bytes], None] | None = None, left: Callable[[], None]
    ) -> None:
        """From now on the socket is ours. `hear` gets what the client sends, `left` is called when it has gone.

        The handler that calls this must `leave` next, and write nothing to its response any more.
        Raises ConnectionResetError where the client has gone.
        """
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client has gone")
        rest = _Rest()
        request.protocol.set_parser(rest)  # type: ignore[arg-type]  # asked for nothing else but to be fed
        self._hear, self._left, self.open = hear, left, True
        # What the loop has told aiohttp, and tells nobody again: a backlog between the limits may be either.
        self.full = request.protocol.writing_paused
        transport.set_protocol(self)
        transport.resume_reading()
        self._wake()
        if rest.data:
            self.data_received(bytes(rest.data))

    # What the event loop tells.

    def data_received(self, data: bytes) -> None:
        if self._hear is not None:
            self._hear(data)

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        if self.more is not None:
            self.more()
        if not self.full:
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self.more is not None:
            self.more()  # it is in vain now
        self._wake()
        left, self._hear, self._left = self._left, None, None
        if left is not None:
            left()

    async def drained(self) -> None:
        """Return when there is somebody to write to, whose backlog is small, or who has gone."""
        while (self.full or not self.open) and not self.lost:
            waiter = asyncio.get_running_loop().create_future()
            if self._waiting is None:
                self._waiting = []
            self._waiting.append(waiter)
            await waiter

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        for waiter in waiting or ():
            if not waiter.done():
                waiter.set_result(None)


class _Rest:
    """aiohttp's parser of what follows the head of a request: keeps it."""

    def __init__(self) -> None:
        self.data = bytearray()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.data += data
        return False, b""

    def feed_eof(self) -> None:
        pass


async def leave(request: web.Request) -> NoReturn:
    """The end of a handler whose socket was taken over: aiohttp lets go of the connection, and so of this handler."""
    request.protocol.transport = None  # or it would be closed
    request.protocol.connection_lost(None)
    await asyncio.get_running_loop().create_future()  # it is cancelled
    raise AssertionError("a handler goes on after its end")
