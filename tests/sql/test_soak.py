"""Partitions that turn fast beneath writers, a reader of differences, and positions held for long (adversarial 28)."""

import asyncio
import random
from datetime import timedelta

from app.model.position import Snapshot
from harness.database import Database, rows_of

DIFFERENCE = """
SELECT s.s::text, f.floor::text, e.id FROM (SELECT pg_current_snapshot() s) s CROSS JOIN realtime.event_log_state f
LEFT JOIN LATERAL (SELECT (new ->> 'id')::int AS id FROM realtime.events
  WHERE op = 'I' AND NOT pg_visible_in_snapshot(xid, %s::pg_snapshot)) e ON true"""


class Soak:
    def __init__(self, database: Database) -> None:
        self.database = database
        self.committed: set[int] = set()
        self.read: list[int] = []  # in the order of reading, with whatever is read twice
        self.held: list[tuple[Snapshot, int]] = []  # snapshots, and how much had been read by then
        self.last = Snapshot(1)
        self.ended = False

    async def write(self, seed: int) -> None:
        chance = random.Random(seed)
        async with await self.database.connect() as connection:
            for number in range(seed * 1000, seed * 1000 + 150):
                await rows_of(connection, f"BEGIN; INSERT INTO posts (id, author_id) VALUES ({number}, 1)")
                if chance.random() < 0.03:  # a slow transaction
                    await rows_of(connection, "SELECT pg_sleep(0.1)")
                if chance.random() < 0.2:
                    await rows_of(connection, "ROLLBACK")
                else:
                    await rows_of(connection, "COMMIT")
                    self.committed.add(number)

    async def difference(self, since: Snapshot) -> tuple[Snapshot, Snapshot, list[int]]:
        rows = await self.database.execute(DIFFERENCE, str(since))
        now, floor = Snapshot.parse(rows[0][0]), Snapshot.parse(rows[0][1])
        return now, floor, [number for *_, number in rows if number is not None]

    async def step(self) -> None:
        self.last, floor, found = await self.difference(self.last)
        assert self.last.contains(floor)
        self.read += found
        self.held.append((self.last, len(self.read)))

    async def turn(self) -> int:
        emptied = 0
        while not self.ended:
            await self.database.execute("UPDATE realtime.partitions_clock SET elapsed = elapsed + interval '300 ms'")
            done = await self.database.value(
                "SELECT realtime.turn(%s, 1 << 40, %s::pg_snapshot)", timedelta(seconds=1), str(self.last)
            )
            emptied += done == "emptied"
        return emptied


async def test_each_row_is_read_once_and_each_accepted_position_gets_exactly_the_rest(database: Database) -> None:
    soak = Soak(database)
    await soak.step()
    turning = asyncio.create_task(soak.turn())
    writing = asyncio.gather(*(soak.write(seed) for seed in range(1, 5)))
    while not writing.done():
        await soak.step()
    await writing
    await soak.step()
    accepted = refused = 0
    for token, count in soak.held[:: -max(1, len(soak.held) // 100)]:  # the newest first: the turns go on
        _, floor, found = await soak.difference(token)
        if token.contains(floor):
            accepted += 1
            assert sorted(found) == sorted(soak.read[count:])
        else:
            refused += 1
    soak.ended = True
    emptied = await turning
    assert sorted(soak.read) == sorted(soak.committed)
    assert emptied > 3
    assert accepted
    assert refused
