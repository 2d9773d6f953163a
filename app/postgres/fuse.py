"""What this server knows of the fuse of the event log (sql/triggers/fuse.sql).

Invariants
- While the fuse is open, or not healed, no position is minted: what is visible may lack changes.
- Each opening expires this server's position once, when it is first seen. The position that follows is expired by the
  floor when the fuse is healed.
- It is told once that the fuse opened, with who holds the event log where that is known, and once that it is healed.
"""

import time

from app.model.observations import FuseHealed, FuseOpened, Observer
from app.postgres.connect import Connection
from app.postgres.queries import SQL


class Fuse:
    def __init__(self, observe: Observer) -> None:
        self._observe = observe
        self._seen: int | None = None  # the newest opening that the live connection has read
        self._expired = False  # it has expired this server's position, and is not healed
        self._at = 0.0
        self._heard = False
        self.opened: FuseOpened | None = None

    @property
    def skipping(self) -> bool:
        """Whether writers may leave changes out now, as far as is known."""
        return self.opened is not None or self._heard

    def hear(self, number: int | None) -> None:
        """Somebody but the live connection has read which opening is not healed."""
        self._heard = number is not None and (number != self._seen or self._expired)

    async def look(self, connection: Connection, number: int) -> bool:
        """The live connection has read that this opening is not healed. Returns whether it is a new one."""
        new, self._seen, self._expired = number != self._seen, number, True
        if self.opened is None:
            found = await (await connection.execute(SQL["blockers"])).fetchall()
            reason = "the disk of the database is full" if number % 2 else "the event log is far over its limit"
            holder, remedy = found[0] if found else ("", "make room on the disk of the database" if number % 2 else "")
            more = f", and {len(found) - 1} more" if len(found) > 1 else ""
            self._at = time.monotonic()
            self.opened = FuseOpened(reason, holder + more, remedy)
            self._observe(self.opened)
        return new

    def end(self) -> None:
        """The live connection has read that the fuse is whole, and this server's position is one of after that."""
        self._expired = self._heard = False
        if self.opened is not None:
            self.opened = None
            self._observe(FuseHealed(time.monotonic() - self._at))
