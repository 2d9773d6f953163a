"""What can be observed of the database and the event log."""

from dataclasses import dataclass

from app.model.observations.base import Observation


@dataclass(frozen=True, slots=True)
class DatabaseLost(Observation):
    """A connection that is needed has ended; clients stay and wait."""

    error: str


@dataclass(frozen=True, slots=True)
class DatabaseBack(Observation):
    """All connections stand again, after `seconds`."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Flowing(Observation):
    """Changes flow from the database to the clients of this server, after `seconds` in which they did not."""

    seconds: float


@dataclass(frozen=True, slots=True)
class NotFlowing(Observation):
    """Changes have not flowed for `seconds`, which is told once. `missing` names what /readyz shows as missing."""

    missing: str
    seconds: float


@dataclass(frozen=True, slots=True)
class ConnectFailed(Observation):
    """The connection `what` ended or can't be made, and is tried again. Told for each reason, and then each minute."""

    what: str
    error: str


@dataclass(frozen=True, slots=True)
class Led(Observation):
    """This server leads the fleet now."""


@dataclass(frozen=True, slots=True)
class Resigned(Observation):
    """This server leads no longer."""

    reason: str


@dataclass(frozen=True, slots=True)
class LeaderEnded(Observation):
    """The leader kept its lock and was silent, so this server ended the leader's database session."""

    pid: int
    silent_seconds: float


@dataclass(frozen=True, slots=True)
class Gate(Observation):
    """Hot: writers skip NOTIFY and the reader polls. Not hot: parked until a NOTIFY."""

    hot: bool


@dataclass(frozen=True, slots=True)
class BatchRead(Observation):
    """A difference that was read from the event log and was not empty; `seconds` is the time of the read."""

    commits: int
    changes: int
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Unreadable(Observation):
    """A transaction of the event log that can't be understood, and why. It is passed over, and the channels of its
    `tables` are reset. Told at each read of it, which is one for the live stream, and one for all who come back."""

    transaction: int
    tables: str
    error: str


@dataclass(frozen=True, slots=True)
class SafetyPollFound(Observation):
    """The poll that should never find anything found commits: a wake-up was lost, but no change was."""

    commits: int


@dataclass(frozen=True, slots=True)
class IncarnationChanged(Observation):
    """The event log may have lost a tail or moved to another primary; positions are re-based."""

    old: str
    new: str


@dataclass(frozen=True, slots=True)
class HistoryBytes(Observation):
    """The batches that are kept in memory."""

    bytes: int


@dataclass(frozen=True, slots=True)
class EventLogState(Observation):
    """The event log in the database: its size, the age of its oldest event, what it has above its limit, and for how
    long it has been unable to turn."""

    bytes: int
    age_seconds: float
    excess_bytes: int = 0
    blocked_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class EventLogTurned(Observation):
    """A partition of the event log was emptied; positions before it are expired."""


@dataclass(frozen=True, slots=True)
class EventLogTurnBlocked(Observation):
    """The oldest partition of the event log should be emptied, and could not be for so long; the event log grows
    meanwhile. This is told when it begins, and from time to time. `remedy` is what ends it, where somebody can."""

    seconds: float
    excess_bytes: int
    reason: str
    remedy: str


@dataclass(frozen=True, slots=True)
class EventLogTurnFree(Observation):
    """What was told by EventLogTurnBlocked is over, after `seconds`."""

    seconds: float


@dataclass(frozen=True, slots=True)
class FuseOpened(Observation):
    """Capture leaves changes out, so that the application's writes go on: all positions are expired. `holder` is who
    keeps the event log from being emptied, and `remedy` ends that, where it is known."""

    reason: str
    holder: str
    remedy: str


@dataclass(frozen=True, slots=True)
class FuseHealed(Observation):
    """Every change is captured again, after `seconds`. Positions from before are expired."""

    seconds: float


@dataclass(frozen=True, slots=True)
class QueueUsage(Observation):
    """How full PostgreSQL's notification queue is, 0 to 1; a full one fails every NOTIFY of the whole cluster."""

    ratio: float


@dataclass(frozen=True, slots=True)
class StrangerAtLock(Observation):
    """A session of a role that is none of ours holds a lock that only we need. Changes flow all the same: by another
    lock where it is the leader's, without sleep where it is the gate. Where it is a table's, watches can't be checked
    or changed meanwhile. `remedy` ends the session."""

    pid: int
    role: str
    lock: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Strangers(Observation):
    """How many sessions are told of by StrangerAtLock now."""

    count: int


@dataclass(frozen=True, slots=True)
class WatchProblem(Observation):
    """A watched table whose capture is not whole, and the SQL that mends it."""

    schema: str
    table: str
    problem: str
    remedy: str


@dataclass(frozen=True, slots=True)
class TableRedefined(Observation):
    """A table came on the air, or its definition, its routes or its rows changed behind its triggers. The clients of
    its channels are `reset: schema`."""

    table: str


@dataclass(frozen=True, slots=True)
class TableOffAir(Observation):
    """A table is watched no more, or is gone. The clients of its channels are told."""

    table: str
