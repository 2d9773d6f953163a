"""A transaction that is too large to hold, in pages, each of which is read once for all who want it at the same time.

Of each page that was read a summary stays. It says which channels may see something of the page, so that whom a page
does not concern passes over it, and does not read it.

Invariants
- Pages and summaries are kept within `PAGES_BYTES` and `SUMMARY_BYTES`, whatever is read and however slowly.
- A page is first read when those before it were.
- Nothing that was forgotten is served afterwards.
"""

import asyncio
from array import array
from bisect import bisect_left
from collections import OrderedDict, defaultdict
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property, partial
from typing import Any, Final, Generic, Protocol, TypeVar

from app.core import wire
from app.core.audience import Channel
from app.core.index import Index
from app.core.routing import empties, touched
from app.core.session import part
from app.model.change import Change, Transaction, Values
from app.model.channel import Topic

PAGES_BYTES: Final = 32 << 20  # of pages
SUMMARY_BYTES: Final = 8 << 20
SPAN: Final = 16  # pages that are read before those look again who look for what concerns them
SETS: Final = 4  # of channels, for which a page keeps its messages
FEW: Final = 100  # changes of which it keeps no messages

T = TypeVar("T")


class PageReader(Protocol):
    """Reads one transaction that is too large to hold. Each method may raise DatabaseAway, and PositionRefused
    (OVERRUN) where the event log was emptied of the transaction."""

    @property
    def xid(self) -> int: ...

    async def topics(self) -> AbstractSet[Topic]:
        """The tables that it has events of."""
        ...

    async def count(self) -> int:
        """How many pages it has."""
        ...

    async def page(self, n: int) -> Transaction:
        """Page `n`, from 0 on. Those before it must have been read once."""
        ...


class Kept(Generic[T]):
    """The most recently used values, within `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self._values: OrderedDict[Hashable, tuple[T, int]] = OrderedDict()

    def get(self, key: Hashable) -> T | None:
        found = self._values.get(key)
        if found is None:
            return None
        self._values.move_to_end(key)
        return found[0]

    def put(self, key: Hashable, value: T, size: int) -> None:
        self._values[key] = value, size
        self.size += size
        while self.size > self.limit and len(self._values) > 1:
            self.size -= self._values.popitem(last=False)[1][1]

    def clear(self) -> None:
        self._values.clear()
        self.size = 0


class Wanted:
    """The channels of one client, as summaries are asked for them."""

    def __init__(self, channels: Iterable[Channel]) -> None:
        channels = list(channels)
        self.topics = {channel.topic for channel in channels}
        self.whole = {channel.topic for channel in channels if not channel.route}
        self.marks = [(c.topic, _mark(c.topic, c.route, c.values)) for c in channels if c.route]


class Summary:
    """Which channels may see something of a page: four bytes for each value of a route."""

    def __init__(self, transaction: Transaction) -> None:
        self._topics = {change.table.relid for change in transaction.changes}
        self._all = {table.relid for table in transaction.schema}  # topics all of whose channels are concerned
        self._all |= {change.table.relid for change in transaction.changes if empties(change)}
        rows: defaultdict[int, list[Change]] = defaultdict(list)
        for change in transaction.changes:
            rows[id(change.table)].append(change)
        marks = set[int]()
        for changes in rows.values():
            table = changes[0].table
            for route, picks in table.picks.items():
                marks.update([_mark(table.relid, route, values) for values in touched(changes, picks)])
        self._marks = array("I", sorted(marks))

    @property
    def size(self) -> int:
        return len(self._marks) * self._marks.itemsize + 500

    def concerns(self, wanted: Wanted) -> bool:
        """False only where no channel of `wanted` sees anything of the page."""
        if wanted.topics & self._all or wanted.whole & self._topics:
            return True
        return any(topic in self._topics and self._has(mark) for topic, mark in wanted.marks)

    def _has(self, mark: int) -> bool:
        place = bisect_left(self._marks, mark)
        return place < len(self._marks) and self._marks[place] == mark


def _mark(topic: Topic, route: tuple[str, ...], values: Values) -> int:
    return hash((topic, route, values)) & 0xFFFFFFFF


class Page:
    """Consecutive changes of the transaction."""

    def __init__(self, transaction: Transaction) -> None:
        self.transaction = transaction
        self.schema: AbstractSet[Topic] = {table.relid for table in transaction.schema}
        self.size = 4 * sum(change.size for change in transaction.changes)  # with its messages, about
        self._messages: dict[tuple[Channel, ...], list[wire.Message]] = {}

    @cached_property
    def index(self) -> Index:
        return Index([self.transaction])

    def messages(
        self, channels: Mapping[str, Channel], limit: int, schema: AbstractSet[Topic]
    ) -> Sequence[wire.Message]:
        """The messages for these channels, each of about `limit` bytes, without an end of the unit. The same arguments
        give the same messages, also when the page was read again. Tables in `schema` are left out."""
        key = tuple(channels.values())
        known = self._messages.get(key) if not schema else None
        if known is None:
            seen = self.index.seen(key)
            known = list(part(seen, channels, limit, None, schema))
            if len(seen) > FEW and not schema and len(self._messages) < SETS:
                self._messages[key] = known
        return known


class LargeTransaction:
    """`pages` and `summaries` are kept for this and other transactions. `look` sees each page that was read."""

    def __init__(
        self,
        reader: PageReader,
        pages: Kept[Page],
        summaries: Kept[Summary],
        look: Callable[[Transaction], None] = lambda _: None,
    ) -> None:
        self.reader = reader
        self._look = look
        self._pages = pages
        self._summaries = summaries
        self._read = 0  # pages that were read, the first of all
        self._forgotten = 0  # how often
        self._topics: AbstractSet[Topic] | None = None
        self._count: int | None = None
        self._under_way: dict[Hashable, asyncio.Task[Any]] = {}

    def forget(self) -> None:
        """Serve no page that is being read now. Its caller clears what is kept."""
        self._forgotten += 1

    async def next(self, wanted: Wanted, n: int) -> int | None:
        """The first page from `n` on that may concern these channels. None where no further page does.

        Raises as PageReader."""
        if self._topics is None:
            self._topics = await self._share("topics", self.reader.topics)
        if not wanted.topics & self._topics:
            return None
        if self._count is None:
            self._count = await self._share("count", self.reader.count)
        whole = bool(wanted.whole & self._topics)
        while n < self._count:
            if whole:
                return n
            if n >= self._read:
                await self._share(("span", n), partial(self._read_span, n))
            summary = self._summaries.get((self, n))
            if summary is None or summary.concerns(wanted):
                return n
            n += 1
        return None

    async def page(self, n: int) -> Page:
        """Page `n`. Raises as PageReader."""
        known = self._pages.get((self, n))
        return known if known is not None else await self._share(n, partial(self._read_page, n))

    async def _read_span(self, n: int) -> None:
        assert self._count is not None
        for following in range(n, min(n + SPAN, self._count)):
            if following >= self._read:
                await self.page(following)

    async def _read_page(self, n: int) -> Page:
        while True:
            forgotten = self._forgotten
            transaction = await self.reader.page(n)
            if forgotten == self._forgotten:
                break
        self._look(transaction)
        page = Page(transaction)
        self._pages.put((self, n), page, page.size)
        if self._summaries.get((self, n)) is None:
            summary = Summary(transaction)
            self._summaries.put((self, n), summary, summary.size)
        self._read = max(self._read, n + 1)
        return page

    async def _share(self, key: Hashable, work: Callable[[], Awaitable[T]]) -> T:
        """The result of `work`, which is done once for all who ask for it while it is under way."""
        task: asyncio.Task[T] | None = self._under_way.get(key)
        if task is None:
            task = self._under_way[key] = asyncio.create_task(_awaited(work))
            task.add_done_callback(lambda done: self._done(key, done))
        return await asyncio.shield(task)

    def _done(self, key: Hashable, task: asyncio.Task[Any]) -> None:
        del self._under_way[key]
        _ = task.cancelled() or task.exception()


async def _awaited(work: Callable[[], Awaitable[T]]) -> T:
    return await work()
