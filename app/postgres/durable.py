"""Waiting until what was read is on disk, because what is visible is not yet durable (docs/capture.md, section 2).

Invariant: `reach` returns only when the WAL is flushed as far as it was written when the batch was read. Normally that
is so already. An idle writer or `synchronous_commit = off` can leave WAL unflushed for long, and then `reach` forces a
flush.
"""

import asyncio
import time
from typing import Final

from app.postgres.connect import Connection
from app.postgres.queries import SQL

FORCE_SECONDS: Final = 0.005  # how long to wait before a flush is forced
FORCED_SECONDS: Final = 0.001  # and where the last one had to be
POLL_SECONDS: Final = 0.001
EMIT_FLUSHES: Final = 170000  # the server version from which a message can be flushed without a transaction


class Flush:
    """Waits for flushes, and remembers whether the last one had to be forced."""

    def __init__(self) -> None:
        self._patience = FORCE_SECONDS

    async def reach(self, connection: Connection, written: int, flushed: int) -> None:
        """Wait until the WAL is flushed up to `written`. `flushed` is how far it is known to be flushed."""
        began, started, forced = flushed, time.monotonic(), False
        while flushed < written:
            waited = time.monotonic() - started
            if not forced and waited > self._patience:
                name = "flush" if connection.info.server_version >= EMIT_FLUSHES else "flush_by_commit"
                await connection.execute(SQL[name])
                forced = True
            else:  # a writer is at the end of its commit, most likely, and flushes
                await asyncio.sleep(POLL_SECONDS)
            row = await (await connection.execute(SQL["flushed"])).fetchone()
            flushed = row[0] if row is not None else flushed
        if flushed > began:  # where no writer flushes, the next wait is short
            self._patience = FORCED_SECONDS if forced else FORCE_SECONDS
