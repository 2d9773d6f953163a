"""All clients of this server: greeting, heartbeats, and the words that all of them hear at once."""

import asyncio
import time
from typing import TYPE_CHECKING, Final

from app.core import wire
from app.core.session import State
from app.model.errors import ResetReason
from app.model.observations import Observer
from app.stream.broadcaster import Broadcaster

if TYPE_CHECKING:
    from app.clients.connection import Connection

CHANNEL_LIMIT = 1000
BEATS: Final = 32  # clients in one turn of the event loop: ten thousand at once would be a pause of 300 ms for all


class Connections:
    """The registry. `heartbeat` is in seconds: no client waits longer for a position."""

    def __init__(
        self, broadcaster: Broadcaster, observe: Observer, *, server_id: str, version: str, heartbeat: float
    ) -> None:
        self.broadcaster = broadcaster
        self.observe = observe
        self.heartbeat = heartbeat
        self.channel_limit = CHANNEL_LIMIT
        limits = {
            "inbound_bytes": wire.INBOUND_BYTES,
            "outbound_bytes": broadcaster.hub.limit,
            "channels": CHANNEL_LIMIT,
        }
        self.welcome = wire.welcome(server_id, version, heartbeat, limits)
        self._all: set[Connection] = set()
        self._word: wire.Message | None = None
        broadcaster.on_reset = self.reset_all

    def __len__(self) -> int:
        return len(self._all)

    def add(self, connection: "Connection") -> None:
        self._all.add(connection)

    def remove(self, connection: "Connection") -> None:
        self._all.discard(connection)

    async def beat(self) -> None:
        """Send live clients that have had no position for a while theirs, forever; where it is withheld, a `pong`. To
        the others a position might close a unit that is open: they get a `pong`, where all that they were sent before
        has gone out."""
        while True:
            began = time.monotonic()
            await self._round()
            await asyncio.sleep(max(0.0, self.heartbeat * 0.45 - (time.monotonic() - began)))

    async def _round(self) -> None:
        for n, connection in enumerate(list(self._all), 1):
            if connection.heard_nothing() and not connection.session.closed:
                _beat(connection, self._position())
            if n % BEATS == 0:
                await asyncio.sleep(0)

    def _position(self) -> wire.Message | None:
        """Where the live are now, made once for as long as they stay there."""
        token = self.broadcaster.point.token
        if token is not None and (self._word is None or self._word.position != token):
            self._word = wire.position(token)
        return self._word if token is not None else None

    def reset_all(self, reason: ResetReason) -> None:
        """The server's own position could not be kept: the live hear it at once, the others when they are back."""
        for connection in list(self._all):
            connection.rebased(reason)


def _beat(connection: "Connection", position: wire.Message | None) -> None:
    if connection.session.state is State.LIVE:
        connection.outbox.send(position or wire.pong(None))  # without: it is withheld
    elif not connection.sink.backlog():
        connection.outbox.send(wire.pong(None))
