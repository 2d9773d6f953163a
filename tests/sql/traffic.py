"""An application's traffic: pgbench with TPC-B and with transactions that read first and write then, by its own record.

Invariants: the transactions never form a deadlock among themselves, so each that fails for one is the fault of what runs
beside them; a transaction that fails for another reason, or waits for a lock for LONGEST seconds, ends pgbench, and the test.
(How long a transaction takes as a whole says less: on busy cores it waits for those too.)
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from harness.cluster import clean_environment
from harness.database import Database

CLIENTS = 6
LONGEST = 1  # seconds that a lock may be waited for
SCHEMA = """
CREATE TABLE orders (id int PRIMARY KEY, v int NOT NULL DEFAULT 0);
CREATE TABLE items (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "order" int NOT NULL REFERENCES orders ON DELETE CASCADE);
CREATE INDEX ON items ("order");
CREATE TABLE visits (day int, id bigint GENERATED ALWAYS AS IDENTITY, v int, PRIMARY KEY (day, id)) PARTITION BY LIST (day);
CREATE TABLE visits_0 PARTITION OF visits FOR VALUES IN (0);
CREATE TABLE visits_1 PARTITION OF visits FOR VALUES IN (1);
INSERT INTO orders SELECT g FROM generate_series(1, 100) g;
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"""
SCRIPTS = {
    "read_then_write": r"""
\set id random(1, 1000)
BEGIN;
SELECT abalance FROM pgbench_accounts WHERE aid = :id;
\sleep 3 ms
UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :id;
END;
""",
    "one_way": r"""
\set id random(1, 100)
BEGIN;
SELECT count(*) FROM pgbench_history WHERE tid = :id;
INSERT INTO orders VALUES (:id) ON CONFLICT (id) DO UPDATE SET v = orders.v + 1;
INSERT INTO items ("order") VALUES (:id);
\sleep 2 ms
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:id, 1, 1, 0, now());
END;
""",
    "the_other_way": r"""
\set id random(1, 100)
BEGIN;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:id, 1, 1, 0, now());
\sleep 2 ms
SELECT count(*) FROM items;
DELETE FROM orders WHERE id = :id;
END;
""",
    "partitions": r"""
\set day random(0, 1)
BEGIN;
SELECT count(*) FROM visits_0;
INSERT INTO visits (day, v) VALUES (:day, 1);
\sleep 2 ms
UPDATE visits_1 SET v = v + 1 WHERE id = -1;
END;
""",
}


@dataclass
class Traffic:
    """What the application met so far."""

    database: Database
    place: Path
    committed: int = 0
    deadlocks: int = 0
    longest: float = 0.0  # seconds of one transaction
    _ended: bool = field(default=False, init=False)

    async def prepare(self) -> None:
        await self._pgbench("-i", "-q", "--partitions=2")
        await self.database.execute(SCHEMA)
        for name, text in SCRIPTS.items():
            (self.place / name).write_text(text)

    async def run(self) -> None:
        scripts = [part for name in SCRIPTS for part in ("-f", str(self.place / name))]
        log = ("-l", f"--log-prefix={self.place}/log", "--failures-detailed")
        while not self._ended:
            await self._pgbench("-n", "-c", str(CLIENTS), "-T", "1", "-b", "tpcb-like", *scripts, *log)
            for written in self.place.glob("log.*"):
                self._count(written.read_text())
                written.unlink()

    def end(self) -> None:
        self._ended = True

    def _count(self, log: str) -> None:
        for line in log.splitlines():
            took = line.split()[2]
            if took.isdigit():
                self.committed += 1
                self.longest = max(self.longest, int(took) / 1e6)
            else:
                self.deadlocks += 1

    async def _pgbench(self, *arguments: str) -> None:
        process = await asyncio.create_subprocess_exec(
            str(self.database.cluster.bin / "pgbench"), *arguments, self.database.url,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env=clean_environment(PGOPTIONS=f"-c lock_timeout={LONGEST}s"),
        )  # fmt: skip
        said, _ = await process.communicate()
        assert process.returncode == 0, said.decode()


@asynccontextmanager
async def traffic(database: Database, place: Path) -> AsyncIterator[Traffic]:
    """While the block runs; what was met is complete when it has ended."""
    made = Traffic(database, place)
    await made.prepare()
    running = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        made.end()
        await running
