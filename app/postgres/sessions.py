"""Sessions that read the event log, each of which first finds out what it reads.

Invariants
- A session knows which incarnation it reads before it is used.
- Every session knows all definitions of watched tables that were there when it began.
- A session of the pool reads the same lineage as the live connection. One that finds another lineage is closed, and
  `doubted` asks the live connection to look again.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from app.model.errors import DatabaseAway
from app.postgres import event_rows
from app.postgres.catalog import Catalog
from app.postgres.connect import ANSWER_SECONDS, OURS, Connection, away, connect, deadline
from app.postgres.incarnation import Incarnation, Incarnations
from app.postgres.pool import Pool
from app.postgres.queries import SQL

READERS: Final = 4
OPEN_SECONDS: Final = 10.0  # for all that a new session asks first


class Sessions:
    """Makes sessions, and lends those of a pool."""

    def __init__(self, url: str, catalog: Catalog) -> None:
        self.url = url
        self.catalog = catalog
        self.incarnations = Incarnations()
        self.doubted = False  # a session of the pool found another lineage than the live connection reads
        self.pool = Pool(self._open_reader, READERS)

    async def open(self, name: str) -> tuple[Connection, Incarnation]:
        """A new session, and the incarnation that it reads. Raises DatabaseAway."""
        connection = await connect(self.url, name=name)
        try:
            with away(*OURS):
                async with deadline(connection, OPEN_SECONDS):
                    event_rows.register(connection)
                    await connection.execute(SQL["plan_for_event_log"], prepare=False)
                    found = await self.incarnations.identify(connection)
                    await self.catalog.load(connection)
        except BaseException:
            await connection.close()
            raise
        return connection, found

    async def _open_reader(self) -> Connection:
        connection, found = await self.open("reader")
        if not self.incarnations.adopt(found):
            await connection.close()
            self.doubted = True
            raise DatabaseAway("another primary, or another history, answers at this address")
        return connection

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[Connection]:
        """A session of the pool for the length of a block. Raises DatabaseAway."""
        async with self.pool.lend() as connection:
            with away(*OURS):
                async with deadline(connection, ANSWER_SECONDS):
                    yield connection
