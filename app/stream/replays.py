"""History that is no longer in memory, read from the event log once for all who ask for it at the same time.

A *run* reads the event log from one position on, a mebibyte at a time, for as long as somebody wants what comes next.
It begins at the meet of the positions that wait (what all of them see), so it serves all of them, and each position
joins the run when the run reaches it. So ten thousand clients with ten thousand positions cost what the oldest of them
costs. What was read is kept for a while, for clients that read more slowly. A position far ahead of all runs gets a run
of its own; there are at most RUNS.

Invariants
- A position that the event log does not reach back to has no part in a meet, so no client is refused for another.
- Nothing that `restart` or `forget` dropped is served afterwards.
- One read is under way at a time.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import reduce
from typing import Final
from weakref import WeakSet

from app.model.change import Transaction
from app.model.errors import DatabaseAway, PositionRefused, ResetReason
from app.model.observations import Failed, Observer, ReplayRead
from app.model.position import Snapshot
from app.stream.large import (
    PAGES_BYTES,
    SUMMARY_BYTES,
    TOLD_BYTES,
    Kept,
    LargeTransaction,
    Messages,
    Page,
    PageReader,
    Summary,
)
from app.stream.ports import EventLog
from app.stream.stretch import Stretch, pieces
from app.stream.trimming import Trimming
from app.stream.unreadable import tell_unreadable

KEPT_BYTES: Final = 16 << 20
KEPT_STRETCHES: Final = 1024  # a position that is not in the history looks through them
RUNS: Final = 4
LARGE: Final = 8  # transactions that are too large to hold, whose pages are shared
NEAR: Final = 50_000  # transactions: closer than this one run is enough
WOKEN: Final = 32  # at most so many go on in one turn of the event loop


@dataclass(eq=False)
class _Run:
    """A read in progress from `reached` to `upto`."""

    reached: Snapshot
    upto: Snapshot
    rest: AsyncIterator[Stretch]

    def serves(self, position: Snapshot) -> bool:
        return position.contains(self.reached) and not position.contains(self.upto)

    def near(self, position: Snapshot) -> bool:
        return position.xmax - self.reached.xmax <= NEAR


@dataclass(eq=False)
class _Waiter:
    position: Snapshot
    found: asyncio.Future[Stretch]

    def refuse(self, error: Exception) -> None:
        if not self.found.done():
            self.found.set_exception(error)


class Replays:
    """`front` says where the server is. A run ends where the server was when the run began."""

    def __init__(
        self, event_log: EventLog, front: Callable[[], Snapshot], observe: Observer, limit: int | None = None
    ) -> None:
        self._event_log = event_log
        self._front = front
        self._observe = observe
        self._limit = limit or KEPT_BYTES
        self._waiting: list[_Waiter] = []
        self._reading: asyncio.Task[None] | None = None
        self._gone = Snapshot(0)
        self._large: OrderedDict[int, LargeTransaction] = OrderedDict()
        self._alive = WeakSet[LargeTransaction]()  # these, and others that somebody is still at
        trimming = Trimming()
        self._pages = Kept[Page](PAGES_BYTES, trimming.freed)
        self._told = Kept[Messages](TOLD_BYTES, trimming.freed)
        self._summaries = Kept[Summary](SUMMARY_BYTES)
        self.restart()

    def restart(self) -> None:
        """Forget everything: positions have another meaning now, or what was read must not be served again."""
        self._kept: deque[Stretch] = deque()
        self._starts: dict[Snapshot, Stretch] = {}
        self._runs: list[_Run] = []  # the least used first
        self.size = 0
        self._forget_pages()
        self._large.clear()

    def forget(self, gone: Snapshot) -> None:
        """Drop each stretch that holds something `gone`, a floor of the event log, sees (app.stream.history)."""
        self._gone = gone
        for kept in [kept for kept in self._kept if kept.holds(gone)]:
            self._kept.remove(kept)
            self._unlist(kept)
        self._forget_pages()

    def _forget_pages(self) -> None:
        for transaction in self._alive:
            transaction.forget()
        self._pages.clear()
        self._told.clear()

    def large(self, reader: PageReader) -> LargeTransaction:
        """The transaction of a stretch that is too large to hold. All who are at it share its pages."""
        shared = self._large.pop(reader.xid, None) or LargeTransaction(
            reader, self._pages, self._told, self._summaries, self._look
        )
        self._large[reader.xid] = shared
        self._alive.add(shared)
        if len(self._large) > LARGE:
            self._large.popitem(last=False)
        return shared

    def _look(self, page: Transaction) -> None:
        tell_unreadable([page], self._observe)

    async def after(self, position: Snapshot) -> Stretch:
        """A stretch that serves `position`, which lacks something that the server has.

        Raises PositionRefused(EXPIRED) where the event log does not reach back, DatabaseAway.
        """
        kept = self.known(position)
        if kept is not None:
            return kept
        waiter = _Waiter(position, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
        return await waiter.found

    def known(self, position: Snapshot) -> Stretch | None:
        """A stretch that serves `position` and was read before."""
        kept = self._starts.get(position)  # nearly always: the end of the one before
        if kept is not None and kept.serves(position):
            return kept
        return next((kept for kept in self._kept if kept.serves(position)), None)

    # Reading.

    async def _read(self) -> None:
        try:
            while self._waiting:
                await self._serve()
        finally:
            self._reading = None

    async def _serve(self) -> None:
        """One read, for the position that has waited longest and all others that it serves."""
        run: _Run | None = None
        try:
            floor = await self._judge()
            if not self._waiting:
                return
            run = self._run_for(self._waiting[0].position, floor)
            found = await anext(run.rest)
        except PositionRefused as refused:
            await self._refused(run, refused)
        except DatabaseAway as error:
            self._drop(run)
            self._give_up(error)
        except Exception as error:  # noqa: BLE001 - who came back for the same would fail again, so he is reset
            self._observe(Failed("replay", error))
            self._drop(run)
            self._give_up(PositionRefused(ResetReason.LOST))
        else:
            if found.holds(self._gone):  # it was purged while it was read: who still wants it is judged again
                self._drop(run)
            elif run in self._runs:  # else everything was forgotten meanwhile
                await self._found(run, found)

    async def _judge(self) -> Snapshot:
        """Refuse the positions that can't be served, so that the others can be. Returns the floor of the event log."""
        floor, front = await self._event_log.floor(), self._front()
        for waiter in self._waiting:
            if not front.contains(waiter.position) or waiter.position.contains(front):
                waiter.refuse(DatabaseAway("the server's own position was lost meanwhile"))
            elif not waiter.position.contains(floor):
                waiter.refuse(PositionRefused(ResetReason.EXPIRED))
        self._tidy()
        return floor

    def _run_for(self, position: Snapshot, floor: Snapshot) -> _Run:
        serving = [run for run in self._runs if run.serves(position)]
        run = max(serving, key=lambda run: run.reached.xmax, default=None)
        if run is None or (not run.near(position) and len(self._runs) < RUNS):
            start = reduce(Snapshot.meet, self._unserved(position), position)
            if not start.contains(floor):  # a meet is cut back, so it may lack what each of its positions has
                start = position
            run = _Run(start, self._front(), self._event_log.stretches(start, self._front()))
            del self._runs[: max(0, len(self._runs) + 1 - RUNS)]
        else:
            self._runs.remove(run)
        self._runs.append(run)
        return run

    def _unserved(self, position: Snapshot) -> list[Snapshot]:
        """The positions that wait near `position` and have no run near to them."""
        waiting = {waiter.position for waiter in self._waiting}
        return [
            p
            for p in waiting
            if abs(p.xmax - position.xmax) <= NEAR and not any(run.serves(p) and run.near(p) for run in self._runs)
        ]

    async def _refused(self, run: _Run | None, refused: PositionRefused) -> None:
        """The event log refused a read: refuse the positions that it no longer reaches back to.

        Where it reaches back to all of the run, the refusal has another cause, and those whom the run serves get it."""
        self._drop(run)
        try:
            floor = await self._judge()
        except Exception as error:  # noqa: BLE001 - as in _serve
            self._give_up(error)
            return
        if run is not None and run.reached.contains(floor):
            for waiter in self._waiting:
                if run.serves(waiter.position):
                    waiter.refuse(refused)
            self._tidy()

    async def _found(self, run: _Run, found: Stretch) -> None:
        self._observe(ReplayRead(found.size))
        tell_unreadable(found.transactions or (), self._observe)
        run.reached = found.upto
        if found.upto == run.upto:
            self._drop(run)
        new = list(pieces(found))
        self._keep(new)
        served = [w for w in self._waiting if w.position.contains(found.since) and not w.position.contains(found.upto)]
        for n, waiter in enumerate(served, 1):
            if not waiter.found.done():
                waiter.found.set_result(next(piece for piece in new if piece.serves(waiter.position)))
            if n % WOKEN == 0:
                await asyncio.sleep(0)
        self._tidy()

    def _keep(self, new: list[Stretch]) -> None:
        for piece in new:
            self._kept.append(piece)
            self._starts[piece.since] = piece
            self.size += piece.size
        while (self.size > self._limit or len(self._kept) > KEPT_STRETCHES) and len(self._kept) > len(new):
            self._unlist(self._kept.popleft())

    def _unlist(self, kept: Stretch) -> None:
        self.size -= kept.size
        if self._starts.get(kept.since) is kept:
            del self._starts[kept.since]

    def _drop(self, run: _Run | None) -> None:
        if run in self._runs:
            self._runs.remove(run)

    def _give_up(self, error: Exception) -> None:
        for waiter in self._waiting:
            waiter.refuse(error)
        self._tidy()

    def _tidy(self) -> None:
        self._waiting = [waiter for waiter in self._waiting if not waiter.found.done()]
