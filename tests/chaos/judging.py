"""The verdict on one round: each client's books against the judge's copy of the event log, and every reset explained.

Invariants: a round is judged when the writers rest, everything is healed and every client has reached the same
position. So the tables as they are then are where the next round begins. The copy of the event log is emptied, and
memory is that of one round. The judge works in a thread, for the proxies before the servers are in this process.
"""

import asyncio
import copy
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.chaos import rows as asked_rows
from tests.chaos.books import Pause, SeenReset, emptied
from tests.chaos.people import Restless
from tests.chaos.rows import Asked
from tests.chaos.world import RETENTION, TABLES, World
from tests.support import token
from tests.support.judge import Finding, judge
from tests.support.stream import Stream, loads
from tests.support.truth import READ_LOG, Event, Row, Truth, counted, parse_channel, read_rows

OLD_SECONDS = 0.8 * RETENTION  # the partitions count their own time, in steps
READ_LEDGER = READ_LOG.replace("realtime.events", "chaos.ledger")
READ_GENERATIONS = """
SELECT e.xid::text::bigint, g.name, g.schema FROM chaos.ledger e JOIN realtime.generations g USING (gen)
 WHERE e.op = 'G'"""
READ_TIMES = """
SELECT xid::text::bigint, extract(epoch FROM min(at))::float8 FROM chaos.ledger WHERE op <> 'G' GROUP BY xid"""
KINDS = {"lost": "lost", "replay": "lost", "extra": "duplicated", "order": "reordered", "chain": "reordered"}


@dataclass
class Score:
    """What all rounds together came to."""

    rounds: int = 0
    changes: int = 0
    deliveries: int = 0
    units: int = 0
    repeated: int = 0  # of units that a disconnect left open
    asked: int = 0  # answers with rows
    found: Counter[str] = field(default_factory=Counter)
    details: list[str] = field(default_factory=list)
    resets: Counter[str] = field(default_factory=Counter)
    unexplained: list[SeenReset] = field(default_factory=list)
    longest_pause: Pause = field(default_factory=Pause)

    @property
    def clean(self) -> bool:
        return not self.found and not self.unexplained


class Judge:
    def __init__(self, world: World) -> None:
        self.world, self.score = world, Score()
        self.base: dict[str, list[Row]] = {}

    async def begin(self) -> None:
        """Before the first writer: what is there already is where the first round begins."""
        async with await self.world.database.connect() as connection:
            self.base = await read_rows(connection, TABLES)
            await connection.execute("TRUNCATE chaos.ledger")

    async def round(self, people: list[Restless], final: str, asked: list[Asked]) -> None:
        async with await self.world.database.connect() as connection:
            logged = await (await connection.execute(READ_LEDGER.encode())).fetchall()
            generations = await (await connection.execute(READ_GENERATIONS.encode())).fetchall()
            times = await (await connection.execute(READ_TIMES.encode())).fetchall()
            rows = await read_rows(connection, TABLES)
            await connection.execute("TRUNCATE chaos.ledger")
        truth = await asyncio.to_thread(self._truth, logged, rows)
        self.score.rounds += 1
        self.score.changes += len(logged)
        explain = Explanations([(x, t if s == "public" else f"{s}.{t}") for x, t, s in generations], times)
        for person in people:
            await self._client(person, truth, final, explain)
        self.score.asked += len(asked)
        self.note("rows", await asyncio.to_thread(asked_rows.wrong, asked, truth))
        for person in people:  # nobody writes while the judge looks
            person.client.stream.books.pause_from = time.monotonic()
        self.base = rows

    def _truth(self, logged: list[tuple[Any, ...]], rows: dict[str, list[Row]]) -> Truth:
        return Truth([_event(row) for row in logged], counted(rows), self.base)

    def note(self, kind: str, details: list[str]) -> None:
        """What is wrong beside the streams."""
        if details:
            self.score.found[kind] += len(details)
            self.score.details += [f"round {self.score.rounds}, {kind}: {detail}"[:3000] for detail in details]

    async def _client(self, person: Restless, truth: Truth, final: str, explain: "Explanations") -> None:
        score, stream, books = self.score, person.client.stream, person.client.stream.books
        record = copy.copy(stream)
        emptied(stream)
        for finding in await asyncio.to_thread(judge, record, truth, final=final):
            score.found[kind_of(finding)] += 1
            score.details.append(f"round {score.rounds}, {stream.name}: {finding}"[:3000])
            score.details += shown(finding, record, truth)
        for reset in books.resets:
            score.resets[reset.reason] += 1
            if not explain.by_a_fault(reset):
                score.unexplained.append(reset)
        score.repeated += len(record.duplicates)
        score.deliveries += books.deliveries
        score.units += books.units
        score.longest_pause = max(score.longest_pause, books.longest_pause)
        books.deliveries = books.units = 0
        books.resets, books.ages = [], {}


def shown(finding: Finding, stream: Stream, truth: Truth) -> list[str]:
    """For a person: what the finding's transaction is in the event log, and as what it came."""
    named = re.search(r"transaction (\d+)", finding.detail)
    if named is None:
        return []
    xid = int(named[1])
    logged = [(e.id, e.n, e.op, e.table, e.key_of(e.old), e.key_of(e.new)) for e in truth.events if e.xid == xid]
    came = [
        (c["id"], c["action"], c["row"])
        for segment in stream.segments
        if segment.channel == finding.channel
        for c in segment.changes()
        if c["tx"] == str(xid)
    ]
    return [f"    logged {logged}"[:2000], f"    came {came}"[:2000]]


def kind_of(finding: Finding) -> str:
    if finding.kind == "fault":
        return "duplicated" if "twice" in finding.detail else "broken protocol"
    return KINDS.get(finding.kind, finding.kind)


class Explanations:
    """What of a reset can be explained: `schema` by a definition that changed between, `expired` and `overrun` by a
    position that lacks what was written longer ago than the retention. Nothing that is done here explains `lost`,
    `foreign` or `invalid`."""

    def __init__(self, generations: list[tuple[int, str]], times: list[tuple[int, float]]) -> None:
        self.generations, self.times = generations, times

    def by_a_fault(self, reset: SeenReset) -> bool:
        if reset.reason == "schema":
            return any(self._defined(reset, channel) for channel in reset.channels)
        return reset.reason in ("expired", "overrun") and any(
            reset.at - held.at > OLD_SECONDS or self._lacks_old(held.position, reset.clock) for held in reset.held
        )

    def _defined(self, reset: SeenReset, channel: str) -> bool:
        table = parse_channel(channel)[0]
        positions = [token.read(held.position) for held in reset.held]
        return any(name == table and not all(p.sees(xid) for p in positions) for xid, name in self.generations)

    def _lacks_old(self, position: str, clock: float) -> bool:
        held = token.read(position)
        return any(written < clock - OLD_SECONDS and not held.sees(xid) for xid, written in self.times)


def _event(row: tuple[Any, ...]) -> Event:
    xid, number, n, op, depth, order, schema, name, new, old, key = row
    table = name if schema == "public" else f"{schema}.{name}"
    nested = bool(depth > 1 or order is not None)
    return Event(xid, number, n, op, nested, table, _json(new), _json(old), tuple(key))


def _json(text: str | None) -> Row | None:
    row: Row | None = None if text is None else loads(text)
    return row
