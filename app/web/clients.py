"""The clients that are connected now, so that a stop can take leave of each of them.

Invariant: from `stop` on no client stays longer than the time that it states.
"""

import asyncio
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

from app import wire
from app.errors import CloseCode
from app.observe import ConnectionClosed, ConnectionOpened, MessagesSent, Observer, Timeout
from app.web.sinks import LINGER, EventSink, WebSocketSink

AnySink = WebSocketSink | EventSink


class Clients:
    def __init__(self, observe: Observer) -> None:
        self._observe = observe
        self._sinks: set[AnySink] = set()
        self._gone = asyncio.Event()
        self.stopping = False

    @contextmanager
    def joined(self, sink: AnySink) -> Iterator[None]:
        """A client is here for as long as the block lasts."""
        since = time.monotonic()
        self._sinks.add(sink)
        self._observe(ConnectionOpened(sink.transport))
        try:
            if self.stopping:
                self._dismiss(sink)
            yield
        finally:
            self._sinks.discard(sink)
            self._observe(ConnectionClosed(sink.transport, time.monotonic() - since, sink.code))
            if self.stopping and not self._sinks:
                self._gone.set()

    async def stop(self) -> None:
        """Ask all to come back, at times spread so that the others are not run over, and wait until they have gone.

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
        self._observe(MessagesSent(message.kind, "", 1, len(message.json)))
        sink.close(CloseCode.RESTART, "restart")
