"""Where the event log stands, as one statement finds it. Snapshot, floor and highest event are of one moment."""

from app.model.errors import DatabaseAway
from app.model.position import Snapshot
from app.postgres.connect import REPLACED, Connection
from app.postgres.queries import SQL


async def read_head(connection: Connection) -> tuple[Snapshot, int, int, bool]:
    """The normalised snapshot, the highest transaction with an event in it, how far the WAL was written, and whether no
    change is missing (app.postgres.fuse).

    Raises DatabaseAway where there is no event log at the moment.
    """
    row = await (await connection.cursor(binary=True).execute(SQL["head"])).fetchone()
    if row is None:
        raise DatabaseAway(REPLACED)
    snapshot, floor, highest, written = Snapshot.parse(row[0]), Snapshot.parse(row[1]), row[2] or 0, row[3]
    highest = max(highest, floor.xmax - 1)  # events below the floor are gone, and their transactions are contained
    return snapshot.normalised(highest), highest, written, row[4]
