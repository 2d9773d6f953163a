"""A model of the event log's port, for interleavings: transactions lock rows, commit in any order, and are read by
snapshot.

Invariants, as PostgreSQL keeps them: who writes a row holds it until the end of the transaction; a statement's number
is drawn while the row is held, a transaction's id whenever it first writes; a read sees what is committed at one moment
between two awaits. The real log is tested against a real PostgreSQL elsewhere.
"""

import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import count, groupby
from random import Random

from app.core.order import transaction
from app.model.change import Batch, Change, Table, Transaction
from app.model.channel import Topic
from app.model.errors import BadChannel, DatabaseAway, PositionRefused, ResetReason
from app.model.position import Position, Snapshot
from app.model.rights import RightsChange
from app.stream.ports import EventLogListener, LogHead
from app.stream.stretch import Stretch
from harness.facts import turn
from tests.support.truth import Event, Truth, canonical

FIRST = 100
BEGAN = 1_767_225_600_000_000  # microseconds: the first of January 2026
Row = dict[str, int]


def table(gen: int, name: str, route: str | None, xid: int = FIRST - 1) -> Table:
    columns = ("id", route) if route else ("id",)
    routes = ((route,),) if route else ()
    relid = {"posts": 10, "notes": 20}[name]
    return Table(
        gen, relid, "public", name, ("id",), routes, columns, ("bigint",) * len(columns), "n" * len(columns), xid
    )


@dataclass
class Writer:
    """An open transaction."""

    xid: int
    events: list[Change] = field(default_factory=list)
    undo: list[tuple[str, int, Row | None]] = field(default_factory=list)
    locks: set[tuple[str, int]] = field(default_factory=set)


class World:
    def __init__(self, random: Random, *, held: int = 10_000) -> None:
        """`held` is the number of changes above which a read holds no transactions."""
        self.random = random
        self.held = held
        self.tables = {"posts": table(1, "posts", "author_id"), "notes": table(2, "notes", "user_id")}
        self.rows: dict[str, dict[int, Row]] = {"posts": {}, "notes": {}}
        self.open: list[Writer] = []
        self.committed: dict[int, list[Change]] = {}
        self.horizon = Snapshot(FIRST)
        self.past: list[Snapshot] = []
        self.incarnation = 1
        self.away = False
        self.replays = self.reads = self.pages = 0  # shared ones, the pieces of them, and those of large transactions
        self._listeners: list[EventLogListener] = []
        self._told = self.horizon  # the floor that the listeners know
        self._xid = count(FIRST)
        self._number = count(1)
        self._gen = count(3)
        self._next = FIRST

    # Writing.

    def begin(self) -> Writer:
        self._next = next(self._xid) + 1
        self.open.append(Writer(self._next - 1))
        return self.open[-1]

    def write(self, writer: Writer) -> None:
        """One statement of one to three rows, or none where other transactions are in its way."""
        name = self.random.choice(["posts", "notes"])
        number, rows = next(self._number), self.rows[name]
        held = {lock for other in self.open if other is not writer for lock in other.locks}
        if (name, -1) in held:
            return
        free = [k for k in rows if (name, k) not in held]
        kind = self.random.choices("IUKSDT", [5, 6, 2, 1, 2, 0.3])[0]
        if kind == "T":
            if not any(n == name for n, _ in held):
                self._truncate(writer, name, number)
        elif kind == "S" and len(free) > 1:
            a, b = self.random.sample(free, 2)
            moved = [(rows[a], {**rows[a], "id": b}), (rows[b], {**rows[b], "id": a})]
            self._log(writer, name, number, moved)
        elif kind == "I" or not free:
            fresh = [k for k in range(1, 30) if k not in rows and (name, k) not in held]
            chosen = self.random.sample(fresh, min(len(fresh), self.random.choice([1, 1, 2, 6])))
            self._log(writer, name, number, [(None, self._row(name, k)) for k in chosen])
        else:
            chosen = self.random.sample(free, min(len(free), self.random.choice([1, 1, 3])))
            spare = iter([k for k in range(30, 60) if k not in rows and (name, k) not in held])
            made = {
                "U": lambda k: self._row(name, k),
                "K": lambda k: {**rows[k], "id": next(spare, k)},
                "S": None,
                "D": None,
            }
            make = made[kind]
            self._log(writer, name, number, [(rows[k], make(k) if make else None) for k in chosen])

    def alter(self, name: str, route: str | None) -> bool:
        """A new generation with other routes, in a transaction of its own; False where somebody holds the table."""
        if any(n == name for other in self.open for n, _ in other.locks):
            return False
        writer = self.begin()
        made = table(next(self._gen), name, route, writer.xid)
        writer.events.append(self._event(writer, next(self._number), 0, "G", made, None, None))
        self.tables[name] = made
        self.commit(writer)
        return True

    def commit(self, writer: Writer) -> None:
        self.open.remove(writer)
        if writer.events:
            self.committed[writer.xid] = writer.events
        self.past.append(self.now())

    def rollback(self, writer: Writer) -> None:
        self.open.remove(writer)
        for name, key, row in reversed(writer.undo):
            if row is None:
                self.rows[name].pop(key, None)
            else:
                self.rows[name][key] = row

    def turn(self, within: list[Snapshot]) -> None:
        """Empty a part of the event log that all of these contain."""
        found = [p for p in self.past if p.contains(self.horizon) and all(w.contains(p) for w in within)]
        if found:
            self.horizon = self.random.choice(found)

    def _row(self, name: str, key: int) -> Row:
        route = "author_id" if name == "posts" else "user_id"
        return {"id": key, route: self.random.randint(1, 3), "v": next(self._number)}

    def _truncate(self, writer: Writer, name: str, number: int) -> None:
        writer.undo += [(name, k, row) for k, row in self.rows[name].items()]
        writer.locks.add((name, -1))
        writer.events.append(self._event(writer, number, 1, "T", self.tables[name], None, None))
        self.rows[name].clear()

    def _log(self, writer: Writer, name: str, number: int, pairs: Sequence[tuple[Row | None, Row | None]]) -> None:
        rows = self.rows[name]
        before = {row["id"]: rows.get(row["id"]) for pair in pairs for row in pair if row is not None}
        writer.undo += [(name, key, row) for key, row in before.items()]
        writer.locks |= {(name, key) for key in before}
        for old, _ in pairs:
            if old is not None:
                rows.pop(old["id"], None)
        for n, (old, new) in enumerate(pairs, 1):
            if new is not None:
                rows[new["id"]] = new
            op = "I" if old is None else "D" if new is None else "U"
            writer.events.append(self._event(writer, number, n, op, self.tables[name], new, old))

    def _event(
        self, writer: Writer, number: int, n: int, op: str, made: Table, new: Row | None, old: Row | None
    ) -> Change:
        def values(row: Row | None) -> tuple[str, ...] | None:
            return tuple(str(row[c]) for c in made.columns) if row is not None else None

        def text(row: Row | None) -> bytes | None:
            return json.dumps(row).encode() if row is not None else None

        at = BEGAN + number
        return Change(number, n, writer.xid, made, op, 1, None, at, values(new), values(old), text(new), text(old))

    # Reading: app.stream.ports.EventLog and Tables.

    def listen(self, listener: EventLogListener) -> None:
        self._listeners.append(listener)

    async def pause(self, most: int = 3) -> None:
        for _ in range(self.random.randrange(most + 1)):
            await turn()

    async def _reach(self) -> None:
        await self.pause()
        if self.away:
            raise DatabaseAway("the database is away")

    def raw(self) -> Snapshot:
        return Snapshot(self._next, frozenset(w.xid for w in self.open))

    def now(self) -> Snapshot:
        return self.raw().normalised(self.highest)

    @property
    def highest(self) -> int:
        return max([*self.committed, self.horizon.xmax - 1])

    def start(self) -> LogHead:
        return LogHead(self.now(), self.highest, self._next, self.incarnation, f"{self.incarnation:08x}")

    skipping = False

    async def head(self) -> LogHead:
        await self._reach()
        return self.start()

    async def accept(self, position: Position) -> None:
        await self._reach()
        if not 1 <= position.incarnation <= self.incarnation or position.tag != f"{position.incarnation:08x}":
            raise PositionRefused(ResetReason.FOREIGN)
        self._reaches_back(position.snapshot, ResetReason.EXPIRED)

    def _reaches_back(self, since: Snapshot, reason: ResetReason) -> None:
        if not since.contains(self.horizon):
            raise PositionRefused(reason)

    async def difference(self, since: Snapshot) -> Batch | None:
        await self._reach()
        self._tell()
        self._reaches_back(since, ResetReason.EXPIRED)
        found = self._between(since, self.raw())
        if not found:
            upto = since.union(self.raw().normalised(since.xmax - 1))
            return Batch(since, upto, since.xmax - 1, 0, [], [], 0, time.monotonic()) if upto != since else None
        highest = max(since.xmax - 1, *(t.xid for t in found))
        schema = {made.gen: made for t in found for made in t.schema}
        size = sum(c.size for t in found for c in t.changes)
        held = None if sum(len(t.changes) for t in found) > self.held else found
        upto = self.raw().normalised(highest)
        now, touched = time.monotonic(), {c.table.relid for t in found for c in self.committed[t.xid]}
        rights = RightsChange.joined(t.rights for t in found)
        batch = Batch(
            since, upto, highest, self._next, held, list(schema.values()), size, now, frozenset(touched), rights
        )
        await self._reach()
        return batch

    async def stretches(self, since: Snapshot, upto: Snapshot) -> AsyncIterator[Stretch]:
        self.replays += 1
        reached, refusal = since, ResetReason.EXPIRED
        rest = self._between(since, upto)
        while True:
            self.reads += 1
            await self._reach()
            self._reaches_back(reached, refusal)
            refusal = ResetReason.OVERRUN
            group, rest = rest[: (k := self.random.randint(1, 3))], rest[k:]
            large = next((n for n, t in enumerate(group) if len(t.changes) > self.held), None)
            if large is not None:
                cut = max(large, 1)
                group, rest = group[:cut], [*group[cut:], *rest]
            before, reached = reached, _with(reached, {t.xid for t in group}) if rest else upto
            size = sum(c.size for t in group for c in t.changes)
            if large == 0:
                yield Stretch(before, reached, None, 0, Pages(self, group[0]))
            else:
                yield Stretch(before, reached, group, size)
            if not rest:
                return

    async def floor(self) -> Snapshot:
        await self._reach()
        self._tell()
        return self.horizon

    def _tell(self) -> None:
        """The floor is known when it is read, and not before."""
        if self._told != self.horizon:
            self._told = self.horizon
            for listener in self._listeners:
                listener.forget(self.horizon)

    def _between(self, since: Snapshot, upto: Snapshot) -> list[Transaction]:
        new = [events for xid, events in self.committed.items() if upto.sees(xid) and not since.sees(xid)]
        return sorted((transaction(events) for events in new), key=lambda t: (t.last, t.xid))

    async def current(self, schema: str, name: str) -> Table | None:
        await self._reach()
        return self.tables.get(name) if schema == "public" else None

    async def canonical(self, table: Table, column: str, value: str) -> str:
        await self._reach()
        try:
            return str(int(value))
        except ValueError as problem:
            raise BadChannel(f"{value!r} is no bigint") from problem

    def truth(self) -> Truth:
        """What the judge goes by."""
        events = [
            Event(c.xid, c.number, c.n, c.op, False, c.table.name, _load(c.new), _load(c.old), ("id",))
            for changes in self.committed.values()
            for c in changes
            if c.op not in "GP"
        ]
        tables = {name: Counter(canonical(row) for row in rows.values()) for name, rows in self.rows.items()}
        return Truth(events, tables)


class Pages:
    """Reads a transaction in pages of a few statements: app.stream.large.PageReader."""

    def __init__(self, world: World, transaction: Transaction) -> None:
        self.xid = transaction.xid
        self._world = world
        self._transaction = transaction
        statements = [list(rows) for _, rows in groupby(transaction.changes, key=lambda c: c.number)]
        cuts, self._pages = Random(self.xid), list[list[Change]]()
        for rows in statements:
            if self._pages and cuts.random() < 0.4:
                self._pages[-1] += rows
            else:
                self._pages.append(rows)

    async def _reach(self) -> None:
        await self._world._reach()
        if self._world.horizon.sees(self.xid):
            raise PositionRefused(ResetReason.OVERRUN)

    async def topics(self) -> AbstractSet[Topic]:
        await self._reach()
        changed = {table.relid for table in self._transaction.schema}
        return changed | {c.table.relid for c in self._transaction.changes}

    async def count(self) -> int:
        await self._reach()
        return len(self._pages) or 1

    async def page(self, n: int) -> Transaction:
        await self._reach()
        self._world.pages += 1
        found, last = self._transaction, n + 1 >= len(self._pages)
        rows = self._pages[n] if self._pages else []
        return Transaction(found.xid, found.last, rows, found.schema if last else [])


def _load(text: bytes | None) -> Row | None:
    row: Row | None = json.loads(text) if text is not None else None
    return row


def _with(snapshot: Snapshot, xids: set[int]) -> Snapshot:
    """The same with these visible too; nothing else."""
    xmax = max(snapshot.xmax, max(xids, default=0) + 1)
    hidden = (x for x in range(FIRST, xmax) if not snapshot.sees(x) and x not in xids)
    return Snapshot(xmax, frozenset(hidden))
