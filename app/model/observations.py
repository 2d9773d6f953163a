"""Everything about the running server that can be observed, as one vocabulary.

Each module says what happened and knows nothing of logs or metrics, which are two readings of the same facts.

Invariants
- There is no I/O here.
- No fact carries a secret. No fact but PageRefused carries a client's value.
- What happens to each message is told once for a batch and audience, with a count.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

Transport = Literal["ws", "sse"]


class Observation:
    """Base of all facts."""

    __slots__ = ()


Observer = Callable[[Observation], None]


def fan(*observers: Observer) -> Observer:
    """One observer that tells them all, in order."""

    def tell(observation: Observation) -> None:
        for observer in observers:
            observer(observation)

    return tell


# The process.


@dataclass(frozen=True, slots=True)
class Served(Observation):
    """The server accepts connections at `url`."""

    url: str
    version: str


@dataclass(frozen=True, slots=True)
class FanOut(Observation):
    """How bytes get to many clients: by `io_uring`, or by a `send` for each. `reason` is why io_uring can't be used."""

    by: Literal["io_uring", "send"]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Stopped(Observation):
    """The server has ended in order; `seconds` since it was asked to."""

    seconds: float


@dataclass(frozen=True, slots=True)
class WorkerStarted(Observation):
    """One of several servers on one port."""

    worker: str
    pid: int


@dataclass(frozen=True, slots=True)
class WorkerEnded(Observation):
    """A worker ended that nobody had asked to end. It is started again. `code` is its exit code."""

    worker: str
    pid: int
    code: int


@dataclass(frozen=True, slots=True)
class WorkerNotStarted(Observation):
    """The system would not start a worker; it is tried again."""

    worker: str
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerHeard(Observation):
    """A worker answers its keeper for the first time: from now on it is killed if it falls silent."""

    worker: str
    pid: int


@dataclass(frozen=True, slots=True)
class WorkerHung(Observation):
    """A worker did not answer, or not end when it was asked to, for so many seconds, and is killed."""

    worker: str
    pid: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Noted(Observation):
    """Something that an operator should know once."""

    note: str


@dataclass(frozen=True, slots=True)
class Failed(Observation):
    """An error that nobody foresaw, in the part `what`; the server goes on. A bug, and counted."""

    what: str
    error: BaseException


@dataclass(frozen=True, slots=True)
class Timeout(Observation):
    """Something took too long and was given up: `what` is one of a few fixed names."""

    what: str


# Clients.


@dataclass(frozen=True, slots=True)
class ConnectionOpened(Observation):
    transport: Transport


@dataclass(frozen=True, slots=True)
class ConnectionClosed(Observation):
    """`code` is the WebSocket close code, if one was sent or received."""

    transport: Transport
    seconds: float
    code: int | None = None


@dataclass(frozen=True, slots=True)
class ConnectionFailed(Observation):
    """A connection that was refused, or ended by an error; `reason` is one of a few fixed names."""

    transport: Transport
    reason: str


@dataclass(frozen=True, slots=True)
class SocketCut(Observation):
    """A socket without a stream was cut: "silent" sent no whole request in time, "too_large" too much of one, and
    "crowded" made room for another."""

    reason: str


@dataclass(frozen=True, slots=True)
class Full(Observation):
    """A client was sent away because there are as many `connections` as may be; told once a minute at most."""

    connections: int
    remedy: str


@dataclass(frozen=True, slots=True)
class PageRefused(Observation):
    """A page was refused for its `origin`, or for the `host` that it asked for; `reason` says for which. Both are cut,
    and told a few times a minute at most: without them nobody finds the setting that is wrong."""

    reason: str
    origin: str
    host: str
    remedy: str


@dataclass(frozen=True, slots=True)
class MessagesReceived(Observation):
    """Messages of a known type from clients."""

    type: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class Refused(Observation):
    """An `error` message to a client; `code` as in the protocol."""

    code: str


@dataclass(frozen=True, slots=True)
class MessagesSent(Observation):
    """Messages written to sockets. `channel` is the table ("sales.orders"), "room", or "" where none is concerned."""

    type: str
    channel: str
    count: int = 1
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Delivered(Observation):
    """Changes written to `count` sockets, `seconds` after the fleet first saw them."""

    transport: Transport
    seconds: float
    count: int = 1


@dataclass(frozen=True, slots=True)
class Lagging(Observation):
    """A slow reader was moved to catch-up (+1), or has caught up or gone (-1)."""

    delta: int


@dataclass(frozen=True, slots=True)
class Replayed(Observation):
    """Missed changes served to a client: from the "history" in memory or from the "event_log"."""

    source: Literal["history", "event_log"]
    changes: int


@dataclass(frozen=True, slots=True)
class ReplayRead(Observation):
    """A piece of history was read from the event log, for all clients that waited for it; `bytes` in memory."""

    bytes: int


@dataclass(frozen=True, slots=True)
class Reset(Observation):
    """`reset` messages: positions that could not be honoured, so changes that these clients have lost."""

    reason: str
    channels: int
    count: int = 1


# The database.


@dataclass(frozen=True, slots=True)
class DatabaseLost(Observation):
    """A connection that is needed has ended; clients stay and wait."""

    error: str


@dataclass(frozen=True, slots=True)
class DatabaseBack(Observation):
    """All connections stand again, after `seconds`."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Led(Observation):
    """This server leads the fleet now."""


@dataclass(frozen=True, slots=True)
class Resigned(Observation):
    """This server leads no longer."""

    reason: str


@dataclass(frozen=True, slots=True)
class LeaderEnded(Observation):
    """The leader kept its lock and was silent: this server ended its backend."""

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
class QueueUsage(Observation):
    """How full PostgreSQL's notification queue is, 0 to 1; a full one fails every NOTIFY of the whole cluster."""

    ratio: float


@dataclass(frozen=True, slots=True)
class WatchProblem(Observation):
    """A watched table whose capture is not whole, and the SQL that mends it."""

    schema: str
    table: str
    problem: str
    remedy: str


# The whole vocabulary: the tests of logs and metrics see to it that none is forgotten.
FACTS: Final = frozenset(
    kind
    for kind in list(globals().values())
    if isinstance(kind, type) and issubclass(kind, Observation) and kind is not Observation
)
