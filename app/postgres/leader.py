"""One server of the fleet leads: it reads first, wakes the others, and has the partitions of the event log emptied.

Invariants
- The server that leads holds the leader's advisory lock on a session of its own.
- What the database refuses the leader to do ends nothing: it is told, and changes go on to flow.
- When any connection of the leader is lost all are closed, and the server starts over as a follower.
- A follower needs nothing from the leader but wake-ups. It may end the database sessions of a leader that is silent.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import psycopg

from app.model.errors import DatabaseAway
from app.model.observations import (
    EventLogTurnBlocked,
    LeaderEnded,
    Led,
    Observer,
    Resigned,
    StrangerAtLock,
    Strangers,
    WatchProblem,
)
from app.model.position import Snapshot
from app.postgres.connect import OURS, Connection, away, connect, deadline, refusal
from app.postgres.failures import Failures
from app.postgres.gate import Gate, Pull
from app.postgres.partitions import Partitions, Retention
from app.postgres.queries import SQL
from app.stream.backoff import backoff

TRY_SECONDS: Final = 1.0  # how often a follower tries to lead
BEAT_SECONDS: Final = 1.0
CHECK_EVERY: Final = 10  # beats between two checks of the watches
LOOK_EVERY: Final = 2  # and between two looks for strangers at our locks
REMIND_SECONDS: Final = 600.0  # how often a stranger is told of again
ANSWER_SECONDS: Final = 30.0


class Leader:
    def __init__(
        self,
        url: str,
        retention: Retention,
        *,
        pull: Pull,
        beat: Callable[[], Awaitable[None]],
        published: Callable[[], Snapshot],
        observe: Observer,
    ) -> None:
        """`pull` reads, applies and publishes; `published` is the position up to which that is done."""
        self._url = url
        self._retention = retention
        self._pull = pull
        self._beat = beat
        self._published = published
        self._observe = observe
        self.leading = False
        self.problems: list[WatchProblem] = []
        self.strangers: list[StrangerAtLock] = []
        self._told: dict[StrangerAtLock, float] = {}  # when each of them was told of
        self._partitions: Partitions | None = None

    @property
    def blocked(self) -> EventLogTurnBlocked | None:
        """Why no partition of the event log can be emptied; None where nothing is known, or another server leads."""
        return self._partitions.blocked if self._partitions is not None else None

    async def run(self) -> None:
        """Forever: follow, and lead when nobody else does."""
        pauses = backoff()
        failures = Failures("leader", self._observe)
        while True:
            try:
                connection = await connect(self._url, name="leader")
                try:
                    while not await self._try_to_lead(connection):
                        pauses = backoff()
                        await asyncio.sleep(TRY_SECONDS)
                    pauses = backoff()
                    await self._lead(connection)
                finally:
                    await connection.close()
            except DatabaseAway as error:
                failures.tell(error)
                await asyncio.sleep(next(pauses))

    async def _try_to_lead(self, connection: Connection) -> bool:
        """Take the leader's lock; False where another server has it."""
        with away(*OURS):
            async with deadline(connection, ANSWER_SECONDS):
                row = await (await connection.execute(SQL["try_to_lead"])).fetchone()
        return row is not None and bool(row[0])

    async def _lead(self, connection: Connection) -> None:
        """Lead until a connection is lost. Raises DatabaseAway."""
        gate = await connect(self._url, name="gate")
        self.leading = True
        self._observe(Led())
        try:
            with away(*OURS):
                row = await (await connection.execute(SQL["two_phase"])).fetchone()
            # NOTIFY forbids PREPARE TRANSACTION: where that is in use, writers are never made to notify.
            driver = Gate(gate, self._pull, self._observe, may_park=row is not None and row[0] == 0)
            await _first_end(driver.run(), self._keep_house(connection))
        except DatabaseAway as error:
            self._resign(str(error))
            raise
        except BaseException:
            self._resign("stopped")
            raise
        finally:
            await gate.close()

    def _resign(self, reason: str) -> None:
        self.leading = False
        self.problems = []
        self.strangers = []
        self._partitions = None
        self._observe(Resigned(reason))

    async def _keep_house(self, connection: Connection) -> None:
        """Beat every second, and look after the partitions and the watches, on the connection that holds the lock."""
        beats = 0
        partitions = self._partitions = Partitions(self._retention, self._published, self._observe)
        while True:
            started = time.monotonic()
            await self._beat()
            with away(*OURS):
                async with deadline(connection, ANSWER_SECONDS):
                    await partitions.look(connection)
                    if beats % CHECK_EVERY == 0:
                        await self._check(connection)
                    if beats % LOOK_EVERY == 0:
                        await self._look_for_strangers(connection)
            beats += 1
            await asyncio.sleep(max(0.0, BEAT_SECONDS - (time.monotonic() - started)))

    async def _check(self, connection: Connection) -> None:
        try:
            rows = await (await connection.execute(SQL["check_watches"])).fetchall()
        except psycopg.Error as error:
            if connection.closed or isinstance(error, OURS):
                raise
            rows = [("realtime", "check()", f"the watched tables can't be checked: {refusal(error)}", "")]
        self.problems = [WatchProblem(*row) for row in rows]
        for problem in self.problems:
            self._observe(problem)

    async def _look_for_strangers(self, connection: Connection) -> None:
        rows = await (await connection.execute(SQL["strangers"])).fetchall()
        now = time.monotonic()
        self.strangers = [StrangerAtLock(*row) for row in rows]
        self._told = {s: at for s, at in self._told.items() if s in self.strangers and now - at < REMIND_SECONDS}
        self._observe(Strangers(len(rows)))
        for stranger in self.strangers:
            if stranger not in self._told:
                self._told[stranger] = now
                self._observe(stranger)

    async def terminate_stale(self, silent_seconds: float) -> None:
        """End the sessions of a leader that was not heard for so long and has not kept house for half of that.

        A stopped process would keep the leader's lock, and advisory lock 1, the gate, for ever. Raises DatabaseAway.
        """
        kept = {"kept": silent_seconds / 2}
        connection = await connect(self._url, name="follower")
        try:
            with away(*OURS):
                async with deadline(connection, ANSWER_SECONDS):
                    for row in await (await connection.execute(SQL["end_leader"], kept)).fetchall():
                        self._observe(LeaderEnded(row[0], silent_seconds))
        finally:
            await connection.close()


async def _first_end(*tasks: Awaitable[None]) -> None:
    """Run all. When one ends, by whatever error, end the others and raise that error."""
    running = {asyncio.ensure_future(task) for task in tasks}
    try:
        done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
