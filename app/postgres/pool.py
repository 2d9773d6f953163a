"""A few connections to read the event log with, made when they are needed and kept.

Invariants
- There are at most `limit` at once.
- Each is lent to one borrower at a time.
- A connection that broke, or that a borrower left in a transaction, is closed and never lent again.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from psycopg.pq import TransactionStatus

from app.postgres.connect import Connection


class Pool:
    """`open_` makes a connection; it raises DatabaseAway where it can't."""

    def __init__(self, open_: Callable[[], Awaitable[Connection]], limit: int) -> None:
        self._open = open_
        self._free: list[Connection] = []
        self._turn = asyncio.Semaphore(limit)

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[Connection]:
        """A connection for the length of the block. Raises DatabaseAway where none can be made."""
        async with self._turn:
            connection = self._free.pop() if self._free else None
            if connection is None or connection.closed:
                connection = await self._open()
            try:
                yield connection
            finally:
                if not connection.closed and connection.info.transaction_status is TransactionStatus.IDLE:
                    self._free.append(connection)
                else:
                    await connection.close()

    async def close(self) -> None:
        """Close the connections that are not lent. Those that are lent stay until their borrowers fail or end."""
        free, self._free = self._free, []
        for connection in free:
            await connection.close()
