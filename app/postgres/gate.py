"""The reader's side of the gate: sleep without missing a commit, and cost writers nothing while awake (capture.md 3).

Writers share the lock K and skip NOTIFY; who can't get it notifies. To sleep, the reader takes K exclusively: granted
when every writer that skipped NOTIFY has ended. While commits are rare it keeps K: one notification and one read for
each is the least. Invariants (tests/unit/test_gate_model.py):
- it sleeps only with K held, and only after one more read that began after the grant;
- a notification is forgotten only before a read begins;
- no request for K stays queued longer than the lock timeout: a queued one makes every writer notify.
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

HOT_SECONDS: Final = 0.030  # stay awake for so long after the last commit
CROWD_SECONDS: Final = 0.250  # and for so long where writers were seen to wait for each other
CROWDED_SECONDS: Final = 1.0  # how long not to ask for K then
LOOK_SECONDS: Final = 0.250  # how often to look whether they do, while commits wake the reader
WEIGHT: Final = 0.2  # of the newest gap between two commits
LONGEST_GAP: Final = 0.5
SAFETY_SECONDS: Final = 1.0
DENIED_SECONDS: Final = 0.010  # the pace while some writer keeps K shared
AWAKE_SECONDS: Final = 0.025  # the pace where sleeping is not allowed
ASK_AGAIN_FIRST: Final = 0.1
ASK_AGAIN_LAST: Final = 5.0
ANSWER_SECONDS: Final = 5.0
PAUSE_SECONDS: Final = 0.002  # after one commit, or none
LONGEST_SECONDS: Final = 0.040


def pace(commits: int) -> float:
    """Seconds until the next read. A read costs some 0.4 ms of processor time whatever it finds, and on a full machine
    that is the writers' time: so the pauses grow with the rate, to 1 ms for each 250 commits a second."""
    return min(PAUSE_SECONDS * math.sqrt(max(commits, 1)), LONGEST_SECONDS)


class Habit:
    """How near to each other commits are. Reads that find nothing until the next commit cost many times what its
    notification does: staying awake pays only where the next one is near."""

    def __init__(self) -> None:
        self._gap = 0.0  # between commits, in seconds: an average that forgets
        self._last = -math.inf

    def found(self, commits: int, now: float) -> None:
        """A read at `now` (monotonic, seconds) found so many: as many gaps, all alike."""
        self._gap += (1 - (1 - WEIGHT) ** commits) * (min(now - self._last, LONGEST_GAP) / commits - self._gap)
        self._last = now

    @property
    def rare(self) -> bool:
        return self._gap > HOT_SECONDS

    def forget(self) -> None:
        self._gap = 0.0


class Gate:
    """Drives `pull` for as long as this server leads. `connection` is the gate's own: it listens and holds K."""

    def __init__(self, connection: Connection, pull: Pull, observe: Observer, *, may_park: bool) -> None:
        self._connection = connection
        self._pull = pull
        self._observe = observe
        self._may_park = may_park
        self._habit = Habit()
        self._ask_at = 0.0
        self._ask_again = ASK_AGAIN_FIRST

    async def run(self) -> None:
        """Forever. Raises DatabaseAway when the gate's connection or the log's is lost."""
        with away():
            async with deadline(self._connection, ANSWER_SECONDS):
                await self._connection.execute(SQL["short_wait"])
                await self._connection.execute(SQL["listen"])
        awake = HOT_SECONDS
        while True:
            self._observe(GateState(hot=True))
            await self._hot(awake)
            awake = await self._parked()

    async def _read(self) -> int:
        commits = await self._pull()
        if commits:
            self._habit.found(commits, time.monotonic())
        return commits

    async def _hot(self, awake: float) -> None:
        """Read until there is nothing for `awake` seconds, and K is held, and one more read has found nothing."""
        last = time.monotonic()
        while True:
            commits = await self._read()
            now = time.monotonic()
            if commits:
                last = now
            if now - last < awake:
                await asyncio.sleep(pace(commits))
            elif not self._may_park or now < self._ask_at:
                await asyncio.sleep(DENIED_SECONDS if self._may_park else AWAKE_SECONDS)
            elif (await self._look())[1]:
                self._ask_at = now + CROWDED_SECONDS  # of whatever database: ours would stand behind them
            elif await self._close():
                await self._forget()
                if not await self._read():
                    return
                await self._open()
                last = time.monotonic()

    async def _parked(self) -> float:
        """Sleep, and read whenever there is a notification, for as long as commits are rare. K is held when this begins
        and free when it ends. Returns for how long to stay awake then."""
        self._observe(GateState(hot=False))
        awake, looked = HOT_SECONDS, time.monotonic()
        while True:
            woken = await self._woken(SAFETY_SECONDS)
            found = await self._read()  # what woke it does not wait for K to be given back
            if not woken and found:
                if not await self._woken(SAFETY_SECONDS):  # its notification may have been on the way
                    self._observe(SafetyPollFound(found))
                await self._read()  # what another notification told of
                break
            if woken and not self._habit.rare:
                break
            if not woken or time.monotonic() - looked > LOOK_SECONDS:
                holds, crowded = await self._look()
                if crowded:  # here or in another database: the next writer would stand behind them
                    awake = CROWD_SECONDS
                    self._habit.forget()
                    break
                if not holds:
                    break
                looked = time.monotonic()
            if woken and not found:
                await asyncio.sleep(PAUSE_SECONDS)  # anybody may notify
        await self._open()
        return awake

    async def _close(self) -> bool:
        """Ask for K; keep reading meanwhile, because writers that share it do not notify."""
        asked = asyncio.create_task(self._ask())
        try:
            while not (await asyncio.wait({asked}, timeout=DENIED_SECONDS))[0]:
                await self._read()
            granted = await asked
        finally:
            asked.cancel()  # where reading failed; the connection is closed then
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
            await self._connection.close()  # whether K is held is unknown
            raise
        return True

    async def _open(self) -> None:
        with away():
            async with deadline(self._connection, ANSWER_SECONDS):
                await self._connection.execute(SQL["open_gate"])

    async def _look(self) -> tuple[bool, bool]:
        """Whether K is held, and whether writers wait for each other: those who notify commit one at a time, so on a
        slow disk even eager ones are as rare as it makes them."""
        with away():
            async with deadline(self._connection, ANSWER_SECONDS):
                row = await (await self._connection.execute(SQL["gate"])).fetchone()
        assert row is not None
        return bool(row[0]), bool(row[1])

    async def _forget(self) -> None:
        """Drop the notifications that have arrived: the read that follows sees what they told of."""
        await self._woken(0)

    async def _woken(self, seconds: float) -> bool:
        """Whether a notification arrived, now or within `seconds`."""
        woken = False
        with away():
            async for _ in self._connection.notifies(timeout=seconds, stop_after=1):
                woken = True
        return woken
