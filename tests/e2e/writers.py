"""Writers as an application has them, all at once and at random: what the ledger test lets loose on the database.

Each transaction is one to four steps of every kind that changes rows, sometimes slow, sometimes rolled back, sometimes
back to a savepoint. A deadlock or a key taken twice is an application's ordinary life: it is counted and rolled back.
"""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field

import psycopg

from harness.database import Database
from harness.facts import pause

TABLES = ("posts", "notifications", "shop.orders")
SETUP = """
CREATE SCHEMA shop;
CREATE TABLE shop.orders (id bigint PRIMARY KEY DEFERRABLE, tenant_id int, status text, amount numeric);
CREATE SEQUENCE shop.order_id;
SELECT realtime.watch('shop.orders', routes => '{"tenant_id,status", tenant_id}');
INSERT INTO posts (author_id, title) SELECT g % 5, 'seed' FROM generate_series(1, 400) g;
INSERT INTO notifications (user_id, kind) SELECT g % 5, 'seed' FROM generate_series(1, 400) g;
INSERT INTO shop.orders SELECT nextval('shop.order_id'), 1 + g % 2, 'open', g FROM generate_series(1, 400) g"""
AUTHORS, USERS, TENANTS, STATUSES = range(1, 5), range(1, 5), range(1, 3), ("open", "paid")
CHANNELS = (
    *TABLES,
    *(f"posts:author_id={author}" for author in AUTHORS),
    *(f"notifications:user_id={user}" for user in USERS),
    *(f"shop.orders:tenant_id={tenant}" for tenant in TENANTS),
    *(f"shop.orders:tenant_id={tenant},status={status}" for tenant in TENANTS for status in STATUSES),
)
SOME = "id IN (SELECT id FROM {table} ORDER BY md5(id::text || %(dice)s) LIMIT %(few)s)"
POSTS, NOTES, ORDERS = (SOME.format(table=table) for table in TABLES)
STEPS = {  # weight, statement
    "insert a post": (6, "INSERT INTO posts (author_id, title) VALUES (%(a)s, %(dice)s)"),
    "insert posts": (1, "INSERT INTO posts (author_id, title) SELECT g %% 5, %(dice)s FROM generate_series(1, 20) g"),
    "update posts": (5, f"UPDATE posts SET title = %(dice)s WHERE {POSTS}"),
    "update nothing": (1, f"UPDATE posts SET title = title WHERE {POSTS}"),
    "move posts": (3, f"UPDATE posts SET author_id = %(a)s WHERE {POSTS}"),
    "new keys for posts": (2, f"UPDATE posts SET id = DEFAULT WHERE {POSTS}"),
    "delete posts": (3, f"DELETE FROM posts WHERE {POSTS}"),
    "insert a notification": (5, "INSERT INTO notifications (user_id, kind) VALUES (%(a)s, %(dice)s)"),
    "read notifications": (3, f"UPDATE notifications SET read_at = clock_timestamp() WHERE {NOTES}"),
    "move notifications": (2, f"UPDATE notifications SET user_id = %(a)s WHERE {NOTES}"),
    "delete notifications": (2, f"DELETE FROM notifications WHERE {NOTES}"),
    "insert orders": (
        4,
        (
            "INSERT INTO shop.orders SELECT nextval('shop.order_id'), 1 + %(a)s %% 2, 'open', 9.90 "
            "FROM generate_series(1, %(few)s)"
        ),
    ),
    "upsert a notification": (
        2,
        (
            "INSERT INTO notifications (id, user_id, kind) OVERRIDING SYSTEM VALUE "
            "SELECT max(id) - %(few)s + 1, 1, 'up' FROM notifications HAVING max(id) > 4 "
            "ON CONFLICT (id) DO UPDATE SET kind = excluded.kind"
        ),
    ),
    "pay orders": (3, f"UPDATE shop.orders SET status = 'paid', amount = amount * 1.10 WHERE {ORDERS}"),
    "move orders": (2, f"UPDATE shop.orders SET tenant_id = 3 - tenant_id, status = 'open' WHERE {ORDERS}"),
    "swap two orders": (
        2,
        (
            "WITH two AS (SELECT min(id) a, max(id) b FROM (SELECT id FROM shop.orders ORDER BY id "
            "LIMIT 2) o) UPDATE shop.orders SET id = a + b - id FROM two WHERE id IN (a, b)"
        ),
    ),
    "delete orders": (2, f"DELETE FROM shop.orders WHERE {ORDERS}"),
    "two tables in one": (
        2,
        (
            f"WITH gone AS (DELETE FROM notifications WHERE {NOTES} RETURNING user_id) "
            "INSERT INTO posts (author_id, title) SELECT user_id, 'was a note' FROM gone"
        ),
    ),
}


@dataclass
class Tally:
    """What the writers did."""

    committed: int = 0
    rolled_back: int = 0
    savepoints: int = 0
    slow: int = 0
    conflicts: int = 0
    rows: int = 0
    steps: Counter[str] = field(default_factory=Counter)


class Writer:
    def __init__(self, database: Database, seed: int, tally: Tally, pace: float) -> None:
        self.database, self.tally, self.pace = database, tally, pace
        self.dice = random.Random(seed)

    async def run(self, ended: asyncio.Event) -> None:
        async with await self.database.connect(autocommit=False) as self.connection:
            while not ended.is_set():
                try:
                    await self._transaction()
                except (psycopg.errors.DeadlockDetected, psycopg.errors.UniqueViolation):
                    await self.connection.rollback()
                    self.tally.conflicts += 1
                await pause(self.dice.random() * self.pace)

    async def _transaction(self) -> None:
        for _ in range(self.dice.choice((1, 1, 1, 2, 3, 4))):
            if self.dice.random() < 0.1:
                await self._savepoint()
            await self._step()
            if self.dice.random() < 0.02:
                self.tally.slow += 1
                await pause(self.dice.random())
        if self.dice.random() < 0.1:
            await self.connection.rollback()
            self.tally.rolled_back += 1
        else:
            await self.connection.commit()
            self.tally.committed += 1

    async def _savepoint(self) -> None:
        self.tally.savepoints += 1
        await self.connection.execute("SAVEPOINT s")
        await self._step()
        if self.dice.random() < 0.6:
            await self.connection.execute("ROLLBACK TO SAVEPOINT s")
        await self.connection.execute("RELEASE SAVEPOINT s")

    async def _step(self) -> None:
        names, weights = list(STEPS), [weight for weight, _ in STEPS.values()]
        name = self.dice.choices(names, weights)[0]
        values = {"a": self.dice.choice(AUTHORS), "dice": str(self.dice.random()), "few": self.dice.randint(1, 4)}
        cursor = await self.connection.execute(STEPS[name][1].encode(), values)
        self.tally.steps[name] += 1
        self.tally.rows += max(cursor.rowcount, 0)
