# ruff: noqa: T201 - a program that talks to whoever runs it
"""`python -m tests.applications [NAME …]`: applications of others, all of their tables watched, and their streams.

Each application makes its schema by its own migrations. Then every table is put on the air, and the application does
its own operations, with its own code. One client listens meanwhile, another replays all of it afterwards: both have to
come to exactly what SELECT gives, table by table. The exit code is 0 only where all of them did.
"""

import asyncio
import sys
import time
from collections import Counter

from harness.cluster import Cluster, migrate
from harness.database import Database
from harness.server import Server
from tests.applications import place
from tests.support.clients import Client, EventStreamClient, WebSocketClient
from tests.support.judge import judge, report
from tests.support.transport import now
from tests.support.truth import Row, Truth, read_rows

# The fewest tables that its operations change, and the fewest changes: fewer means that they did not do what they say.
APPLICATIONS = {"procrastinate": (3, 300), "wagtail": (20, 500), "oscar": (20, 500)}
REACH_SECONDS = 60.0
TABLES = """
SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p') AND NOT c.relispartition ORDER BY 1"""


async def check(cluster: Cluster, name: str) -> str:
    """One application from its first migration to the verdict: a line that says what was compared."""
    database = Database(cluster, await asyncio.to_thread(cluster.create_database, migrated=False))
    await asyncio.to_thread(migrate, database.url, "-x", "tables=no", "upgrade", "head")
    await asyncio.to_thread(place.run, name, "migrate", database.url)
    tables = [table for (table,) in await database.execute(TABLES)]
    for table in tables:
        await database.execute("SELECT realtime.watch(%s::regclass)", f'public."{table}"')
    async with await database.connect() as connection:
        base = await read_rows(connection, tables)
    async with Server(database.url, name) as server:
        before = await now(database)
        async with WebSocketClient(server.url, "live") as live:
            answer = await live.subscribe(*tables, position=before)
            assert answer["type"] == "subscribed", answer
            await asyncio.to_thread(place.run, name, "operate", database.url)
            async with EventStreamClient(server.url, *tables, position=before, name="replayed") as replayed:
                truth = await verdict(database, tables, base, live, replayed)
    return summary(name, tables, truth)


async def verdict(database: Database, tables: list[str], base: dict[str, list[Row]], *clients: Client) -> Truth:
    """Everything that was committed is in the books of every client, and comes to the rows of the tables."""
    final = await now(database)
    async with await database.connect() as connection:
        truth = await Truth.read(connection, *tables, base=base)
    for client in clients:
        await client.reach(final, REACH_SECONDS)
        stream = client.stream
        assert not stream.errors, f"{stream.name}: {stream.errors}"
        assert not stream.resets, f"{stream.name}: {stream.resets}"
        assert stream.count() == len(truth.events), f"{stream.name}: {stream.count()} of {len(truth.events)} changes"
        findings = judge(stream, truth, final=final)
        assert not findings, f"{stream.name}: {report(findings)}"
    return truth


def summary(name: str, tables: list[str], truth: Truth) -> str:
    changed, transactions = Counter(event.table for event in truth.events), {event.xid for event in truth.events}
    fewest_tables, fewest_changes = APPLICATIONS[name]
    said = (
        f"{len(truth.events)} changes of {len(changed)} tables in {len(transactions)} transactions, "
        f"{len(tables)} tables watched"
    )
    assert len(changed) >= fewest_tables, f"{name} did too little: {said}"
    assert len(truth.events) >= fewest_changes, f"{name} did too little: {said}"
    return f"{name}: {said}: live and replayed streams equal the tables"


async def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in APPLICATIONS]
    if unknown:
        sys.exit(f"applications: {', '.join(unknown)} is none of {', '.join(APPLICATIONS)}")
    place.python()
    failed, began = 0, time.monotonic()
    cluster = await asyncio.to_thread(Cluster)
    try:
        for name in names or APPLICATIONS:
            try:
                print(await check(cluster, name), flush=True)
            except AssertionError as error:
                failed += 1
                print(f"{name} FAILED: {error}", flush=True)
    finally:
        await asyncio.to_thread(cluster.close)
    print(f"applications: {failed} failed, {time.monotonic() - began:.0f} s", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
