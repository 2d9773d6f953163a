"""The reader's side of the gate: it sleeps without missing a commit, and costs writers nothing while it is awake.

The gate is advisory lock 1 (docs/capture.md, section 3). A writer that can share the gate skips NOTIFY. A writer that
can't share it notifies. To sleep, the reader closes the gate: it takes the lock exclusively, which is granted when
every writer that skipped NOTIFY has ended. While commits are rare the reader sleeps again with the gate still closed,
because one notification and one read for each commit is the least that it can cost.

Invariants (tests/unit/postgres/test_gate_model.py)
- The reader sleeps only while the gate is closed, and only after one more read that began after the grant.
- The reader drops a notification only before a read begins.
- No request for the gate stays queued longer than the lock timeout, because a queued one makes every writer notify.
- A session that listens takes its notifications at least every DROP_SECONDS. One that does not keeps PostgreSQL's
  queue, which all databases of the cluster share, from being emptied, and a full queue fails every NOTIFY.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Final

import psycopg

from app.model.observations import Gate as GateState
from app.model.observations import Observer, SafetyPollFound
from app.postgres.connect import Connection, away, deadline
from app.postgres.queries import SQL

Pull = Callable[[], Awaitable[int]]  # reads, applies and publishes what is new; returns the number of commits

HOT_SECONDS: Final = 0.030  # how long the reader stays awake after the last commit
CROWD_SECONDS: Final = 0.250  # how long it does where writers were seen to wait for each other
CROWDED_SECONDS: Final = 1.0  # how long it does not ask for the gate then
LOOK_SECONDS: Final = 0.250  # how often it looks whether writers wait for each other, while commits wake it
WEIGHT: Final = 0.2  # of the newest gap between two commits, in the average
LONGEST_GAP: Final = 0.5  # seconds; a longer gap counts as this
SAFETY_SECONDS: Final = 1.0  # how often a sleeping reader reads although nothing woke it
DENIED_SECONDS: Final = 0.010  # the pace of reading while some writer keeps the gate open
AWAKE_SECONDS: Final = 0.025  # the pace of reading where sleeping is not allowed
DROP_SECONDS: Final = 1.0  # how often an awake reader drops the notifications that have arrived
ASK_AGAIN_FIRST: Final = 0.1  # how long after a denial the reader asks for the gate again; doubles each time
ASK_AGAIN_LAST: Final = 5.0
ANSWER_SECONDS: Final = 5.0  # without an answer for so long the gate's connection is dead
PAUSE_SECONDS: Final = 0.002  # between two reads, after one commit or none
LONGEST_SECONDS: Final = 0.040


def pace(commits: int) -> float:
    """Seconds until the next read, after one that found so many commits.

    A read costs some 0.4 ms of processor time whatever it finds, and on a full machine that is the writers' time. So
    the pauses grow with the rate, to 1 ms for each 250 commits a second.
    """
    return min(PAUSE_SECONDS * math.sqrt(max(commits, 1)), LONGEST_SECONDS)


class Habit:
    """How near to each other commits are.

    The reads that find nothing before the next commit cost many times what its notification does. So staying awake pays
    only where the next commit is near.
    """

    def __init__(self) -> None:
        self._gap = 0.0  # seconds between commits: an average in which old gaps fade
        self._last = -math.inf

    def learn(self, commits: int, now: float) -> None:
        """A read at `now` (monotonic, seconds) found so many commits. They count as so many gaps, all alike."""
        self._gap += (1 - (1 - WEIGHT) ** commits) * (min(now - self._last, LONGEST_GAP) / commits - self._gap)
        self._last = now

    @property
    def rare(self) -> bool:
        return self._gap > HOT_SECONDS

    def forget(self) -> None:
        self._gap = 0.0


class Gate:
    """Drives `pull` for as long as this server leads."""

    def __init__(self, connection: Connection, pull: Pull, observe: Observer, *, may_park: bool) -> None:
        """`connection` is the gate's own: it listens, and holds the gate closed. `may_park` allows to sleep at all."""
        self._connection = connection
        self._pull = pull
        self._observe = observe
        self._may_park = may_park
        self._habit = Habit()
        self._ask_at = 0.0
        self._ask_again = ASK_AGAIN_FIRST

    async def run(self) -> None:
        """Read for ever. Raises DatabaseAway when the gate's connection, or the one that reads, is lost."""
        with away():
            async with deadline(self._connection, ANSWER_SECONDS):
                await self._connection.execute(SQL["short_wait"])
                if self._may_park:
                    await self._connection.execute(SQL["listen"])
        awake = HOT_SECONDS
        while True:
            self._observe(GateState(hot=True))
            await self._stay_awake(awake)
            awake = await self._sleep()

    async def _read(self) -> int:
        commits = await self._pull()
        if commits:
            self._habit.learn(commits, time.monotonic())
        return commits

    async def _stay_awake(self, awake: float) -> None:
        """Read until nothing came for `awake` seconds, the gate is closed, and one more read has found nothing."""
        last = dropped = time.monotonic()
        while True:
            if time.monotonic() - dropped > DROP_SECONDS:
                await self._drop_notifications()
                dropped = time.monotonic()
            commits = await self._read()
            now = time.monotonic()
            if commits:
                last = now
            if now - last < awake:
                await asyncio.sleep(pace(commits))
            elif not self._may_park or now < self._ask_at:
                await asyncio.sleep(DENIED_SECONDS if self._may_park else AWAKE_SECONDS)
            elif (await self._look())[1]:
                # Whatever database they write to, ours would wait behind them if they had to notify.
                self._ask_at = now + CROWDED_SECONDS
            elif await self._try_to_close():
                await self._drop_notifications()
                if not await self._read():
                    return
                await self._open()
                last = time.monotonic()

    async def _sleep(self) -> float:
        """Sleep, and read whenever a notification comes, for as long as commits are rare.

        The gate is closed when this begins and open when it ends. Returns for how many seconds to stay awake then.
        """
        self._observe(GateState(hot=False))
        awake, looked = HOT_SECONDS, time.monotonic()
        while True:
            woken = await self._heard_within(SAFETY_SECONDS)
            found = await self._read()  # before the gate opens, because the change that woke the reader need not wait
            if not woken and found:
                if not await self._heard_within(SAFETY_SECONDS):  # its notification may have been on the way
                    self._observe(SafetyPollFound(found))
                await self._read()  # the notification may have told of a later change
                break
            if woken and not self._habit.rare:
                break
            if not woken or time.monotonic() - looked > LOOK_SECONDS:
                closed, crowded = await self._look()
                if crowded:  # here or in another database: the next writer that notifies would wait, or fail
                    awake = CROWD_SECONDS
                    self._habit.forget()
                    break
                if not closed:
                    break
                looked = time.monotonic()
            if woken and not found:
                await asyncio.sleep(PAUSE_SECONDS)  # any role may notify, as often as it likes
        await self._open()
        return awake

    async def _try_to_close(self) -> bool:
        """Ask for the gate, and go on reading meanwhile, because writers that share it do not notify.

        False where some writer kept it for the whole lock timeout.
        """
        asked = asyncio.create_task(self._ask())
        try:
            while not (await asyncio.wait({asked}, timeout=DENIED_SECONDS))[0]:
                await self._read()
            granted = await asked
        finally:
            asked.cancel()  # where reading failed, and then the caller closes the connection
            await asyncio.gather(asked, return_exceptions=True)
        if granted:
            self._ask_again = ASK_AGAIN_FIRST
        else:
            self._ask_at = time.monotonic() + self._ask_again
            self._ask_again = min(self._ask_again * 2, ASK_AGAIN_LAST)
        return granted

    async def _ask(self) -> bool:
        try:
            with away():
                async with deadline(self._connection, ANSWER_SECONDS):
                    try:
                        await self._connection.execute(SQL["close_gate"])
                    except psycopg.errors.LockNotAvailable:
                        return False
        except BaseException:
            await self._connection.close()  # whether it holds the lock is unknown, and this ends it
            raise
        return True

    async def _open(self) -> None:
        with away():
            async with deadline(self._connection, ANSWER_SECONDS):
                await self._connection.execute(SQL["open_gate"])

    async def _look(self) -> tuple[bool, bool]:
        """Whether the gate is closed, and whether writers wait for each other, or would fail, where they notify.

        Writers that notify commit one at a time. So on a slow disk even those that have much to write look rare.
        """
        with away():
            async with deadline(self._connection, ANSWER_SECONDS):
                row = await (await self._connection.execute(SQL["look_at_gate"])).fetchone()
        assert row is not None
        return bool(row[0]), bool(row[1])

    async def _drop_notifications(self) -> None:
        """Drop those that have arrived. The read that follows sees what they told of."""
        await self._heard_within(0)

    async def _heard_within(self, seconds: float) -> bool:
        """Wait for a notification, take it, and drop what arrived with it. False where none came in so many seconds."""
        heard = False
        with away():
            async for _ in self._connection.notifies(timeout=seconds, stop_after=1):
                heard = True
        return heard
