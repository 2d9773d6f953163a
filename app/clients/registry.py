"""All clients of this server: their heartbeats, and the resets that all of them hear at once.

Invariant: no client waits longer than `heartbeat` seconds for a position, or for a `pong` where it can have none.
"""

import asyncio
import time
from typing import Final, Protocol

from app.clients.door import Door
from app.clients.limits import Limits, LocalLimits
from app.core import wire
from app.core.session import NAMES_LIMIT
from app.model.errors import ResetReason
from app.model.observations import Observer
from app.stream.lookup import Lookup
from app.stream.rights import Rights, Unjudged

CHANNEL_LIMIT = 1000
BEATS: Final = 32  # clients in one turn of the event loop: ten thousand at once would be a pause of 300 ms for all


class Registered(Protocol):
    """A connection, as the registry sees it: `app.clients.connection.Connection`."""

    def beat(self, position: wire.Message | None) -> None:
        """Say something to the client if it has heard no position since the beat before. `position` is the `position`
        message of the live clients, None where it is withheld."""
        ...

    def rebase(self, reason: ResetReason) -> None:
        """The server's own position could not be kept: tell the client, or send it away to come back."""
        ...

    def judge_anew(self) -> None:
        """Have the client's rights judged before it is sent anything more."""
        ...


class Registry:
    """`heartbeat` is in seconds. `welcome` is the message that greets each client. Without a `door` everybody may come
    in, without `rights` everybody may have everything, and without `limits` those of one server hold."""

    def __init__(
        self,
        lookup: Lookup,
        observe: Observer,
        *,
        server_id: str,
        version: str,
        heartbeat: float,
        door: Door | None = None,
        rights: Rights | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.lookup = lookup
        self.rights: Rights = rights or Unjudged()
        self.broadcaster = broadcaster = lookup.broadcaster
        self.observe = observe
        self.heartbeat = heartbeat
        self.door = door or Door(observe)
        self.limits: Limits = limits or LocalLimits(observe)
        self.channel_limit = CHANNEL_LIMIT
        told = {
            "inbound_bytes": wire.INBOUND_BYTES,
            "outbound_bytes": broadcaster.hub.limit,
            "channels": CHANNEL_LIMIT,
            "channel_names": NAMES_LIMIT,
        }
        self.welcome = wire.welcome(server_id, version, heartbeat, told)
        self._all: set[Registered] = set()
        self._position: wire.Message | None = None
        broadcaster.listen(self)

    def __len__(self) -> int:
        return len(self._all)

    def add(self, connection: Registered) -> None:
        self._all.add(connection)

    def remove(self, connection: Registered) -> None:
        self._all.discard(connection)

    async def beat(self) -> None:
        """Beat for every client, round after round, forever."""
        while True:
            began = time.monotonic()
            await self._round()
            await asyncio.sleep(max(0.0, self.heartbeat * 0.45 - (time.monotonic() - began)))

    async def _round(self) -> None:
        for n, connection in enumerate(list(self._all), 1):
            connection.beat(self._position_message())
            if n % BEATS == 0:
                await asyncio.sleep(0)

    def _position_message(self) -> wire.Message | None:
        """Where the live are now, made once for as long as they stay there. None while the fuse is open, for some have
        newer rows then."""
        if self.broadcaster.event_log.skipping:
            return None
        token = self.broadcaster.point.token
        if token is not None and (self._position is None or self._position.position != token):
            self._position = wire.position(token)
        return self._position if token is not None else None

    def rebased(self, reason: ResetReason | None) -> None:
        """Where the server's own position could not be kept, the live hear it at once, the others when they are back.
        Where it was kept, who may have what is judged anew all the same: a crash may have taken what granted it."""
        for connection in list(self._all):
            if reason is None:
                connection.judge_anew()
            else:
                connection.rebase(reason)
