"""One read of what is new: the events that became visible since a snapshot, and what was true when they were read.

The statement (difference.sql) has to answer more than events: its snapshot, the floor, and how far the WAL is written
and durable, all of one moment. As further columns of every event they cost a tenth of the reading, so they travel in a
row of their own before the events, the header, and in one after them, the footer. Both have the columns of an event.
`unpack_difference` is the one place that knows this.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from app.model.errors import DatabaseAway
from app.model.position import Snapshot
from app.postgres import event_rows
from app.postgres.connect import REPLACED, Connection
from app.postgres.pages import LARGE_BYTES, LARGE_CHANGES
from app.postgres.queries import SQL

HEADER: Final = "H"  # where an event has its op
FOOTER: Final = "F"
WITHOUT_VALUES: Final = "X"  # an event beyond the bytes that were asked for


@dataclass(frozen=True, slots=True)
class Difference:
    """`written` and `flushed` are WAL positions: how far the WAL was written when the snapshot was taken, and how far
    it was durable when the last event had been read. `events` are rows of the event log (app.postgres.event_rows).
    Where they were `too_large` to be held they are not all of them. `fuse` is the opening of the fuse that is not
    healed: then changes may be missing among what the snapshot sees."""

    snapshot: Snapshot
    floor: Snapshot
    written: int
    flushed: int
    events: Sequence[Sequence[Any]]
    too_large: bool
    fuse: int | None


def unpack_difference(rows: Sequence[Sequence[Any]]) -> Difference:
    """The header, the events and the footer of a result.

    Raises DatabaseAway where the header is missing: then the event log is not the one that the connection began with,
    because a dump is being restored over it, and what was read of it is worth nothing.
    """
    if rows[0][event_rows.OP] != HEADER:
        raise DatabaseAway(REPLACED)
    header, *events, footer = rows
    assert footer[event_rows.OP] == FOOTER
    snapshot, floor, written, fuse = header[event_rows.NEW_VALUES]
    too_large = len(events) > LARGE_CHANGES or (bool(events) and events[-1][event_rows.OP] == WITHOUT_VALUES)
    return Difference(
        Snapshot.parse(snapshot), Snapshot.parse(floor), int(written), footer[event_rows.ID], events, too_large,
        None if fuse is None else int(fuse),
    )  # fmt: skip


async def read_difference(connection: Connection, start: Snapshot, state_table: int) -> Difference:
    """What became visible since `start`. `state_table` says which event log that is: the oid of its table of state."""
    parameters = {
        "last": str(start.xmax - 1),
        "open": [str(x) for x in start.xip],
        "rows": LARGE_CHANGES + 1,
        "bytes": LARGE_BYTES,
        "state_table": state_table,
    }
    cursor = await connection.cursor(binary=True).execute(SQL["difference"], parameters)
    return unpack_difference(await cursor.fetchall())
