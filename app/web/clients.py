"""The clients that are connected: how many may be, the pings of WebSockets, and the stop that tells all to come back.

Invariants
- From `stop` on no client stays longer than `stop` says.
- `sockets` counts every socket that was taken over and is open.
"""

import asyncio
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from aiohttp import web

from app.core import wire
from app.model.errors import CloseCode
from app.model.observations import (
    ConnectionClosed,
    ConnectionFailed,
    ConnectionOpened,
    Full,
    MessagesSent,
    Observer,
    Timeout,
    Transport,
)
from app.web.crowds import Crowds
from app.web.sinks import LINGER, EventSink, WebSocketSink

AT_ONCE: Final = 32  # clients that are pinged in one turn of the event loop
FULL_SECONDS: Final = 60.0  # between two lines that say that there is no room
AnySink = WebSocketSink | EventSink


class Clients:
    """At most `most` at once. `clock` is in seconds and never goes back."""

    def __init__(
        self,
        observe: Observer,
        most: int = sys.maxsize,
        clock: Callable[[], float] = time.monotonic,
        crowds: Crowds | None = None,
    ) -> None:
        self.crowds = crowds or Crowds(observe)
        self._observe = observe
        self._most = most
        self._clock = clock
        self._full_told = -FULL_SECONDS
        self._expected = 0  # of event streams that have not begun yet
        self._sinks: set[AnySink] = set()
        self._leaving: set[AnySink] = set()
        self._gone = asyncio.Event()
        self.stopping = False

    def join(self, sink: AnySink) -> None:
        """Count this client in, until `leave`. During a stop it is told at once to come back."""
        self._sinks.add(sink)
        self._observe(ConnectionOpened(sink.transport))
        if self.stopping:
            self._dismiss(sink)

    @property
    def sockets(self) -> int:
        return len(self._sinks) + len(self._leaving)

    def has_no_room(self, transport: Transport) -> bool:
        """Whether there is no room for another one. Where there is none, the caller sends the client away, and that is
        counted and logged here."""
        if len(self._sinks) + self._expected < self._most:
            return False
        self._observe(ConnectionFailed(transport, "full"))
        now = self._clock()
        if now - self._full_told >= FULL_SECONDS:
            self._full_told = now
            self._observe(Full(self._most, "more servers, a higher limit of open files, or SOBRANIE_CONNECTIONS"))
        return True

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """Keep a place for a client that joins at the end of the block."""
        self._expected += 1
        try:
            yield
        finally:
            self._expected -= 1

    def seat(self, sink: AnySink, address: bytes | None) -> None:
        """Count this client for its address, until `leave` or `unseat`. Raises RateLimited."""
        self.crowds.enter(address)
        sink.address = address

    def unseat(self, sink: AnySink) -> None:
        """Count it out again. Idempotent."""
        address, sink.address = sink.address, None
        self.crowds.leave(address)

    def see_off(self, sink: AnySink, request: web.Request) -> None:
        """Take over the socket of a client that is served nothing but the end that its sink has. Raises
        ConnectionResetError where the client has gone."""
        sink.peer.take(request, left=lambda: self._leaving.discard(sink))
        self._leaving.add(sink)

    def leave(self, sink: AnySink) -> None:
        self._sinks.discard(sink)
        self.unseat(sink)
        self._observe(ConnectionClosed(sink.transport, time.monotonic() - sink.since, sink.code))
        if self.stopping and not self._sinks:
            self._gone.set()

    async def ping(self, every: float) -> None:
        """Ping each WebSocket every so many seconds, forever. A client that does not answer is not cut off for it,
        because it may only be stopped or slow. TCP tells which have gone (app.web.sinks)."""
        while True:
            began = time.monotonic()
            for n, sink in enumerate(list(self._sinks), 1):
                if isinstance(sink, WebSocketSink):
                    sink.ping()
                if n % AT_ONCE == 0:
                    await asyncio.sleep(0)
            await asyncio.sleep(max(0.0, every - (time.monotonic() - began)))

    async def stop(self) -> None:
        """Tell all to come back, each at another time so that no server is run over, and wait until they have gone.

        Takes at most LINGER seconds and a little.
        """
        self.stopping = True
        for sink in list(self._sinks):
            self._dismiss(sink)
        if self._sinks:
            try:
                await asyncio.wait_for(self._gone.wait(), LINGER + 1)
            except TimeoutError:
                self._observe(Timeout("stop"))

    def _dismiss(self, sink: AnySink) -> None:
        after_ms = random.randint(200, 1000 + len(self._sinks))
        message = wire.reconnect(after_ms, "restart")
        sink.write([message])
        if isinstance(sink, EventSink):
            sink.retry(after_ms)  # an EventSource goes by this alone
        self._observe(MessagesSent(message.kind, "", 1, message.size))
        sink.close(CloseCode.RESTART, "restart")
