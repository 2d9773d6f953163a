"""What reading the log finds, each of one moment."""

from dataclasses import dataclass
from typing import Any

from app.model.position import Snapshot


@dataclass(frozen=True, slots=True)
class Read:
    """`written` and `flushed` are WAL positions: that of the snapshot, and how much was durable soon after. `events`
    are rows of the log, as many as fit where it was `too_large`."""

    snapshot: Snapshot
    floor: Snapshot
    written: int
    flushed: int
    events: list[Any]
    too_large: bool
