"""The clients that are connected now, so that a stop can tell each of them to come back.

Invariant: from `stop` on no client stays longer than the time that it states.
"""

import asyncio
import random
import time

from app.core import wire
from app.model.errors import CloseCode
from app.model.observations import ConnectionClosed, ConnectionOpened, MessagesSent, Observer, Timeout
from app.web.sinks import LINGER, EventSink, WebSocketSink

AnySink = WebSocketSink | EventSink


class Clients:
    def __init__(self, observe: Observer) -> None:
        self._observe = observe
        self._sinks: set[AnySink] = set()
        self._gone = asyncio.Event()
        self.stopping = False

    def join(self, sink: AnySink) -> None:
        """A client is here, until it does `leave`."""
        self._sinks.add(sink)
        self._observe(ConnectionOpened(sink.transport))
        if self.stopping:
            self._dismiss(sink)

    def leave(self, sink: AnySink) -> None:
        self._sinks.discard(sink)
        self._observe(ConnectionClosed(sink.transport, time.monotonic() - sink.since, sink.code))
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
        self._observe(MessagesSent(message.kind, "", 1, message.size))
        sink.close(CloseCode.RESTART, "restart")
