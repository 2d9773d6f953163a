"""The ledger's writers against the event log alone, without a server: its sum is the tables, to the row."""

import asyncio

from harness.database import Database
from harness.facts import eventually
from tests.e2e.writers import SETUP, STEPS, TABLES, Tally, Writer
from tests.support import token
from tests.support.transport import now
from tests.support.truth import Truth


async def test_the_log_of_mixed_writers_adds_up_to_their_tables(database: Database) -> None:
    await database.execute(SETUP)
    tally, ended = Tally(), asyncio.Event()
    writing = [asyncio.create_task(Writer(database, seed, tally, 0.01).run(ended)) for seed in range(8)]
    await eventually(lambda: set(tally.steps) == set(STEPS) and tally.committed > 500, 30, "every kind of step")
    ended.set()
    await asyncio.gather(*writing)
    final = token.read(await now(database))
    async with await database.connect() as connection:
        truth = await Truth.read(connection, *TABLES)
    assert {event.op for event in truth.events} == {"I", "U", "D"}
    for table in TABLES:
        assert truth.state_at(table, final) == truth.tables[table]
        assert truth.tables[table].total() > 0
