"""A transaction that is too large to hold, in pages, each of which is read once for all who want it at the same time.

Of each page that was read a summary stays. It says which channels may see something of the page, so that whom a page
does not concern passes over it, and does not read it.

Invariants
- Pages, their messages and summaries are kept within `PAGES_BYTES`, `TOLD_BYTES` and `SUMMARY_BYTES`, whatever is read
  and however slowly. Pages and messages go when nobody is at the transaction any more.
- A page is first read when those before it were.
- Nothing that was forgotten is served afterwards.
"""

import asyncio
from array import array
from bisect import bisect_left
from collections import OrderedDict, defaultdict
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
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
TOLD_BYTES: Final = 64 << 20  # of messages, a fraction of their page: who reads slowly finds them for longer
SUMMARY_BYTES: Final = 8 << 20
SPAN: Final = 16  # pages that are read before those look again who look for what concerns them
FEW: Final = 100  # changes of a page, of which no messages are kept

T = TypeVar("T")
Messages = Sequence[wire.Message]
Key = tuple[Hashable, ...]


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
    """The most recently used values, within `limit` bytes. `freed` is told the size of what is no longer needed."""

    def __init__(self, limit: int, freed: Callable[[int], None] = lambda _: None) -> None:
        self.limit = limit
        self.size = 0
        self._freed = freed
        self._values: OrderedDict[Key, tuple[T, int]] = OrderedDict()

    def get(self, key: Key) -> T | None:
        found = self._values.get(key)
        if found is None:
            return None
        self._values.move_to_end(key)
        return found[0]

    def put(self, key: Key, value: T, size: int) -> None:
        self.size += size - self._values.pop(key, (None, 0))[1]
        self._values[key] = value, size
        while self.size > self.limit and len(self._values) > 1:
            self.size -= self._values.popitem(last=False)[1][1]

    def drop(self, owner: object) -> None:
        """Forget the values whose key begins with `owner`."""
        size = sum(self._values.pop(key)[1] for key in [key for key in self._values if key[0] is owner])
        self.size -= size
        self._freed(size)

    def clear(self) -> None:
        self._values.clear()
        self._freed(self.size)
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

    @cached_property
    def index(self) -> Index:
        return Index([self.transaction])

    def messages(
        self, channels: Mapping[str, Channel], limit: int, schema: AbstractSet[Topic]
    ) -> tuple[Messages, bool]:
        """The messages for these channels, each of about `limit` bytes, without an end of the unit, and whether they
        are of many changes. The same arguments give the same messages, also when the page was read again. Tables in
        `schema` are left out."""
        seen = self.index.seen(channels.values())
        return list(part(seen, channels, limit, None, schema)), len(seen) > FEW


class LargeTransaction:
    """`pages`, `told` (messages) and `summaries` are kept for this and other transactions, under keys that begin with
    the transaction. `look` sees each page that was read."""

    def __init__(
        self,
        reader: PageReader,
        pages: Kept[Page],
        told: Kept[Messages],
        summaries: Kept[Summary],
        look: Callable[[Transaction], None] = lambda _: None,
    ) -> None:
        self.reader = reader
        self._look = look
        self._pages = pages
        self._told = told
        self._users = 0
        self._summaries = summaries
        self._read = 0  # pages that were read, the first of all
        self._forgotten = 0  # how often
        self._topics: AbstractSet[Topic] | None = None
        self._count: int | None = None
        self._under_way: dict[Hashable, asyncio.Task[Any]] = {}

    def forget(self) -> None:
        """Serve no page that is being read now. Its caller clears what is kept."""
        self._forgotten += 1

    @contextmanager
    def used(self) -> Iterator[None]:
        """Somebody is at the transaction for the length of a block."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._pages.drop(self)
                self._told.drop(self)

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

    async def messages(
        self, n: int, channels: Mapping[str, Channel], limit: int, pending: AbstractSet[Topic]
    ) -> tuple[Messages, AbstractSet[Topic]]:
        """What page `n` says to these channels, and the tables whose definition changes in it. Those in `pending`,
        whose definition changed before, are left out. Raises as PageReader."""
        theirs = {name: c for name, c in channels.items() if self._topics is None or c.topic in self._topics}
        key = (self, n, limit, *theirs.values())
        if not pending and (known := self._told.get(key)) is not None:
            return known, frozenset()
        forgotten, page = self._forgotten, await self.page(n)
        while forgotten != self._forgotten:
            forgotten, page = self._forgotten, await self.page(n)
        if not pending and (known := self._told.get(key)) is not None:  # by another who waited for the page
            return known, frozenset()
        messages, many = page.messages(theirs, limit, pending | page.schema)
        if many and not pending and not page.schema:
            self._told.put(key, messages, sum(message.size + 1000 for message in messages))
        return messages, page.schema

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
