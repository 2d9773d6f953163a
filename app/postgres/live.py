"""The live connection: the one that reads what is new, and how it comes back after a break.

Invariants
- Whatever fails on the live connection ends it. The next use makes it anew.
- The raw snapshot of the last read is used only on the connection that took it. A crash ends connections and gives
  transaction ids out again, and after it only the normalised position counts.
- A new connection that reads another incarnation is used only where that holds all that was durable when the newest
  position was minted. Where it does not, `use` raises PositionRefused(LOST), once.
"""

import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final

from app.model.errors import DatabaseAway, PositionRefused
from app.model.observations import DatabaseBack, DatabaseLost, IncarnationChanged, Observer
from app.model.position import Snapshot
from app.postgres.connect import ANSWER_SECONDS, OURS, Connection, away, deadline
from app.postgres.durable import Flush
from app.postgres.failures import Failures
from app.postgres.floor import Floor
from app.postgres.head import read_head
from app.postgres.incarnation import Incarnation
from app.postgres.queries import SQL
from app.postgres.sessions import Sessions
from app.stream.ports import EventLogListener, LogHead

NOWHERE: Final = 0  # the oid of no table


class LiveConnection:
    def __init__(
        self, sessions: Sessions, floor: Floor, listeners: Iterable[EventLogListener], observe: Observer
    ) -> None:
        """`listeners` are told of another incarnation that honours the positions of the one before."""
        self._sessions = sessions
        self._floor = floor
        self._listeners = listeners
        self._observe = observe
        self._connection: Connection | None = None
        self._lost_at: float | None = None
        self._failures = Failures("live", observe)
        self._serving: Incarnation | None = None
        self._last: tuple[Snapshot, Snapshot] | None = None  # of the last read: its raw snapshot, and where it ended
        self._flush = Flush()
        self._durable_at = 0  # where the WAL was when the newest position was minted
        self.state_table = NOWHERE  # the oid of the event log's table of state, as this connection began with it

    @property
    def connected(self) -> bool:
        """False from DatabaseLost to DatabaseBack. A connection that was given up by a read that was no longer wanted
        is made anew at the next use."""
        return self._lost_at is None

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Connection]:
        """The connection for the length of a block, made anew where it broke. Whatever fails in the block ends it.

        Raises PositionRefused (LOST: it is another history now), which ends nothing, and DatabaseAway.
        """
        try:
            if self._sessions.doubted and self._connection is not None:
                await self._drop(DatabaseAway("another primary answers"))
            if self._connection is None:
                await self._reconnect()
            assert self._connection is not None
            with away(*OURS):
                async with deadline(self._connection, ANSWER_SECONDS):
                    yield self._connection
        except PositionRefused:
            raise
        except BaseException as error:
            await self._drop(error)
            raise

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    # What was read on it.

    def start(self, since: Snapshot) -> Snapshot:
        """Where to read from to find all that `since` lacks: the raw snapshot of the last read, if it ended there."""
        return self._last[0] if self._last is not None and self._last[1] == since else since

    def remember(self, raw: Snapshot, upto: Snapshot) -> None:
        """A read took the snapshot `raw` and ended at the position `upto`."""
        self._last = raw, upto

    async def wait_until_durable(self, connection: Connection, written: int, flushed: int = 0) -> None:
        """Wait until the WAL is flushed up to `written`, before a position that goes so far is minted."""
        await self._flush.reach(connection, written, flushed)
        self._durable_at = written

    async def head(self, connection: Connection) -> LogHead:
        """Where the event log stands, durably. Raises DatabaseAway."""
        position, highest, written, complete = await read_head(connection)
        await self.wait_until_durable(connection, written)
        current = self._sessions.incarnations.current
        assert current is not None
        return LogHead(position, highest, written, current.n, current.tag, complete)

    # Its end and its return.

    async def _drop(self, error: BaseException) -> None:
        connection, self._connection = self._connection, None
        self._last = None
        if self._lost_at is None and isinstance(error, Exception):
            self._lost_at = time.monotonic()
            self._observe(DatabaseLost(str(error)))
        elif isinstance(error, Exception):
            self._failures.tell(error)
        if connection is not None:
            await connection.close()

    async def _reconnect(self) -> None:
        connection, found = await self._sessions.open("live")
        self._connection, self._last, self._sessions.doubted = connection, None, False
        self._floor.forget()
        with away(*OURS):
            row = await (await connection.execute(SQL["state_table"])).fetchone()
        self.state_table = row[0] if row is not None else NOWHERE
        if self._lost_at is not None:
            self._observe(DatabaseBack(time.monotonic() - self._lost_at))
            self._lost_at = None
            self._failures.over()
        before = self._serving
        self._sessions.incarnations.current = found
        if before is not None and before != found:
            await self._change_incarnation(connection, before, found)
        self._serving = found

    async def _change_incarnation(self, connection: Connection, before: Incarnation, found: Incarnation) -> None:
        """Go on in another incarnation. Where this fails half-way it is tried again with the next connection."""
        self._observe(IncarnationChanged(str(before), str(found)))
        await self._sessions.pool.close()
        self._sessions.catalog.forget()
        with away(*OURS):
            await self._sessions.catalog.load(connection)
        try:
            self._sessions.incarnations.check_carries(before, found, self._durable_at)
        except PositionRefused:
            self._serving = found
            raise
        with away(*OURS):
            head = await self.head(connection)
        for listener in self._listeners:
            listener.rebase(head, None)
