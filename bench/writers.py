"""What do writers keep of their speed when their table is on the air?

Eight pgbench clients insert single rows, five seconds at a time, by turns into an untriggered copy of `posts` and
into `posts` itself, with a server running and one client subscribed. Printed: each pair, and the median ratio. A pair's
order alternates, so that a machine that grows slower or faster favours neither. `fsync` is on, as in production.

    make bench-writers        (PAIRS=10 SECONDS=5 CLIENTS=8)
"""

import asyncio
import os
import re
import statistics
import sys
from urllib.parse import urlsplit

from tests.support.cluster import Cluster
from tests.support.database import Database
from tests.support.facts import eventually
from tests.support.server import Server

PAIRS, SECONDS, CLIENTS = (
    int(os.environ.get(name, default)) for name, default in (("PAIRS", "10"), ("SECONDS", "5"), ("CLIENTS", "8"))
)
COPY = """
CREATE TABLE plain (LIKE posts INCLUDING ALL);
TRUNCATE posts RESTART IDENTITY"""


def throughput(cluster: Cluster, database: Database, table: str) -> float:
    """Transactions a second of CLIENTS that insert one row each time."""
    script = cluster.dir / f"{table}.sql"
    script.write_text(
        f"\\set a random(1, 1000)\nINSERT INTO {table} (author_id, title, body) "
        "VALUES (:a, 'a title', 'a body of some sixty characters, as short posts have them');\n"
    )
    script.chmod(0o644)
    output = cluster.run(
        "pgbench",
        "-n",
        "-M",
        "prepared",
        "-c",
        str(CLIENTS),
        "-j",
        "1",
        "-T",
        str(SECONDS),
        "-f",
        str(script),
        "-d",
        database.url,
    )
    found = re.search(r"tps = ([0-9.]+)", output)
    assert found is not None, output
    return float(found[1])


async def main() -> None:
    cluster = Cluster(fsync="on")
    try:
        database = Database(cluster, cluster.create_database(migrated=True))
        await database.execute(COPY)
        async with Server(database.url) as server:
            reader, writer = await subscribe(server)
            counting = asyncio.create_task(count(reader))
            ratios = await measure(cluster, database)
            written = await database.value("SELECT count(*) FROM posts")
            await eventually(lambda: received() >= written, 60, "the client has every row")
            counting.cancel()
            writer.close()
    finally:
        cluster.close()
    say(
        f"median ratio {statistics.median(ratios):.3f} of {len(ratios)} pairs "
        f"(from {min(ratios):.3f} to {max(ratios):.3f}); the client received {received()} of {written} rows"
    )
    assert received() == written


async def subscribe(server: Server) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A client that costs next to nothing, for it shares the machine with what is measured."""
    where = urlsplit(server.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port, limit=1 << 22)
    writer.write(f"GET /realtime/events?channel=posts HTTP/1.1\r\nHost: {where.netloc}\r\n\r\n".encode())
    await reader.readuntil(b'"type":"position"')
    return reader, writer


CHUNKS: list[int] = []
ACTION = b'"action":"INSERT"'


async def count(reader: asyncio.StreamReader) -> None:
    tail = b""
    while data := await reader.read(1 << 20):
        data = tail + data
        CHUNKS.append(data.count(ACTION))
        tail = data[-len(ACTION) + 1 :]


def received() -> int:
    return sum(CHUNKS)


async def measure(cluster: Cluster, database: Database) -> list[float]:
    ratios = []
    for table in ("plain", "posts"):  # warm both
        await asyncio.to_thread(throughput, cluster, database, table)
    for pair in range(PAIRS):
        speed = {}
        for table in ("plain", "posts")[:: 1 if pair % 2 else -1]:
            speed[table] = await asyncio.to_thread(throughput, cluster, database, table)
        ratios.append(speed["posts"] / speed["plain"])
        say(
            f"pair {pair + 1}: untriggered {speed['plain']:.0f}/s, on the air {speed['posts']:.0f}/s, "
            f"ratio {ratios[-1]:.3f}"
        )
    return ratios


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
