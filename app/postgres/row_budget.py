"""One budget for the rows that this server holds: those that are being read, and those that clients have not taken yet.

Invariants
- What is held is at most `limit`, however many clients ask for rows and however slowly they take them.
- Who finds no room waits in turn, for WAIT_SECONDS at most.
- What rows took is given back when nobody holds them any more, and then to the system too.
"""

import asyncio
import weakref
from typing import Final

from app.model.errors import Unavailable
from app.stream.ports import Rows
from app.stream.trimming import Trimming

WAIT_SECONDS: Final = 20.0
LEAST: Final = 64  # of the budget this part at least is free when a read begins
ROW_BYTES: Final = 60  # that a row takes besides its JSON


class RowBudget:
    """`limit` is in bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._trimming = Trimming()
        self._turn = asyncio.Lock()
        self._room = asyncio.Event()

    async def reserve(self, size: int) -> int:
        """Wait for room, and take so many bytes of it, or half of what there is. Raises Unavailable if that lasts.

        So a few large reads that nobody takes leave room for small ones."""
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                async with self._turn:
                    while self.limit - self.held < min(size, self.limit // LEAST):
                        self._room.clear()
                        await self._room.wait()
                    taken = min(size, (self.limit - self.held) // 2)
                    self.held += taken
                    return taken
        except TimeoutError as error:
            raise Unavailable("too many rows wait to be taken by other clients; try again") from error

    def hold(self, rows: Rows, reserved: int) -> None:
        """Hold for as long as these rows are there what they take, and give back the rest of what was reserved."""
        size = min(reserved, sum(len(row) + ROW_BYTES for found in rows.channels.values() for row in found))
        weakref.finalize(rows, self.give_back, size).atexit = False
        self.held -= reserved - size
        self._room.set()

    def give_back(self, size: int) -> None:
        self.held -= size
        self._room.set()
        self._trimming.freed(size)
