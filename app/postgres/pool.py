"""A few connections to read the log with, made when needed and kept.

Invariants: at most `limit` at once, each lent to one borrower at a time; one that broke, or that found another
lineage of the log than the one being served, is closed and never lent again.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from psycopg.pq import TransactionStatus

from app.postgres.connect import Connection


class Pool:
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
        """Close those that are not lent: the others are closed by the server's end of the line."""
        free, self._free = self._free, []
        for connection in free:
            await connection.close()
