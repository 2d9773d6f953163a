"""The rights of one client to its channels, judged whenever they may have changed.

Invariants
- `epoch` is the broadcaster's, in which all channels of the connection were judged last. What the server applied since
  then is not sent before they are judged anew.
- A channel to which the right is lost gets nothing more, and the client is told: `forbidden`, then `unsubscribed`.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

from app.clients.outbox import Outbox
from app.core import wire
from app.core.audience import Channel
from app.core.session import Session
from app.model.channel import parse
from app.model.claims import Identity
from app.model.errors import DatabaseAway, Forbidden, Unavailable
from app.model.rights import Action
from app.stream.backoff import jittered
from app.stream.broadcaster import Broadcaster
from app.stream.rights import Rights

AWAY_SECONDS: Final = 1.0


class Holder(Protocol):
    """The connection that has the channels."""

    broadcaster: Broadcaster
    outbox: Outbox
    session: Session

    @property
    def identity(self) -> Identity: ...

    def drop(self, names: Sequence[str]) -> None: ...


class Judging:
    """One for each connection, and so small."""

    __slots__ = ("_client", "_rights", "epoch")

    def __init__(self, client: Holder, rights: Rights) -> None:
        self._client = client
        self._rights = rights
        self.epoch = client.broadcaster.epoch

    @property
    def current(self) -> bool:
        """Whether nothing has changed since all channels were judged."""
        return self.epoch == self._client.broadcaster.epoch

    async def check(self, names: Iterable[str], *, rows: bool) -> None:
        """Raises Forbidden where the client may not have one of these channels, with their rows where they are wanted,
        and Unavailable."""
        actions: tuple[Action, ...] = ("subscribe", "snapshot") if rows else ("subscribe",)
        await self._rights.check(self._client.identity, map(parse, names), *actions)

    async def settle(self, opening: dict[str, Channel] | None = None) -> None:
        """Give up the channels that the client may not have any more, until all are judged. `opening` are those whose
        rows have not been sent: they are taken out of it, and it is for the caller to release them.

        While it can't be known what the client may have, this waits. Raises ConnectionResetError where the connection
        ends meanwhile."""
        while not self.current:
            if self._client.session.over:
                raise ConnectionResetError("the connection ended meanwhile")
            epoch, identity = self._client.broadcaster.epoch, self._client.identity
            try:
                refused = await self._refused(self._client.session.channels, "subscribe")
                if opening:
                    refused += await self._refused(opening, "subscribe", "snapshot")
            except (DatabaseAway, Unavailable):
                await asyncio.sleep(jittered(AWAY_SECONDS))
                continue
            unchanged = epoch == self._client.broadcaster.epoch and identity == self._client.identity
            if unchanged and not self._client.session.over:
                self._give_up(refused, opening or {})
                self.epoch = epoch

    async def _refused(self, channels: Mapping[str, Channel], *actions: Action) -> list[Forbidden]:
        return await self._rights.lost(self._client.identity, map(parse, list(channels)), *actions)

    def _give_up(self, refused: list[Forbidden], opening: dict[str, Channel]) -> None:
        for problem in refused:
            name = problem.channel
            assert name is not None
            self._client.outbox.refuse(problem)
            if name in self._client.session.channels:
                self._client.drop([name])
            else:
                opening.pop(name)
            self._client.outbox.send(wire.unsubscribed(None, [name]))
