"""What the stream needs of the edges: one Protocol for each, and the values that pass through them.

An edge (the database, a broker) implements these; nothing here knows one. Every method that reads may raise
DatabaseAway, whose caller tries again. Snapshots that pass through are normalised (app.model.position).
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from app.core.rights import Policy
from app.model.change import Batch, Table
from app.model.channel import TableAddress
from app.model.errors import ResetReason
from app.model.observations import EventLogTurnBlocked, FuseOpened, StrangerAtLock, WatchProblem
from app.model.position import Position, Snapshot
from app.model.rights import Revocation
from app.stream.stretch import Stretch

PORTION_BYTES: Final = 1 << 20  # about how much a replay reads, and sends, at a time


@dataclass(frozen=True, slots=True)
class LogHead:
    """Where the event log stands: its position, its highest transaction with an event, the WAL position that is
    durable, and the incarnation (number and tag) in which all this holds. Where it is not `complete`, changes may be
    missing that the position sees."""

    position: Snapshot
    highest: int
    lsn: int
    incarnation: int
    tag: str
    complete: bool = True


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Rows:
    """The rows of some channels as of one position, each row as its JSON."""

    position: Snapshot
    lsn: int
    channels: dict[str, list[bytes]]


class EventLogListener(Protocol):
    """Who has to know at once what befalls the event log. Neither method awaits."""

    def forget(self, floor: Snapshot) -> None:
        """The event log reaches back to `floor` and no further."""
        ...

    def rebase(self, head: LogHead, reason: ResetReason | None) -> None:
        """The event log goes on in another incarnation. Without a reason, the positions of the one before hold."""
        ...


class EventLog(Protocol):
    """The event log of one primary, and what is known about positions in it."""

    def listen(self, listener: EventLogListener) -> None:
        """Tell `listener` from now on."""
        ...

    @property
    def skipping(self) -> bool:
        """Whether writers leave changes out now, as far as is known (the fuse is open). No position can be honoured
        then, and `difference` finds nothing until that is over. Then it refuses with EXPIRED."""
        ...

    async def head(self) -> LogHead:
        """Where the event log stands now, durably."""
        ...

    async def floor(self) -> Snapshot:
        """What a position must contain for the event log to reach back to it. The answer is at most a second old."""
        ...

    async def accept(self, position: Position) -> None:
        """Raises PositionRefused (FOREIGN, LOST, EXPIRED) where the event log can't honour the position."""
        ...

    async def difference(self, since: Snapshot) -> Batch | None:
        """All that is committed, durable, and not in `since`; None where there is nothing new.

        The list of transactions is empty where some that were open in `since` have ended without an event. Raises
        PositionRefused: EXPIRED where the event log no longer reaches back to `since`, LOST where it is of another
        history.
        """
        ...

    def stretches(self, since: Snapshot, upto: Snapshot) -> AsyncIterator[Stretch]:
        """What `upto` sees and `since` does not, in order, in whole transactions, as stretches of about PORTION_BYTES,
        each from where the one before ends. The last ends at `upto`.

        A transaction that is too large to hold is a stretch of its own and is not read: its `large` reads it, in pages
        of about PORTION_BYTES. No transaction of the database stays open between two reads. Raises PositionRefused:
        EXPIRED at the start, OVERRUN where the event log was emptied of it meanwhile. After a refusal the next call of
        `floor` gets a new answer.
        """
        ...


class RowReader(Protocol):
    """Reading the rows of watched tables."""

    async def rows(self, wanted: Sequence[tuple[Table, TableAddress]]) -> Rows:
        """The rows of these channels as of one moment.

        Raises Forbidden (no right to read them), BadChannel (no index for the route), TooLarge.
        """
        ...


class Tables(Protocol):
    """The watched tables, as their newest definitions have them."""

    async def current(self, schema: str, name: str) -> Table | None:
        """The definition of a table; None where no such table is, or was, watched."""
        ...

    async def canonical(self, table: Table, column: str, value: str) -> str:
        """The value as its type prints it. Raises BadChannel where it is no value of the type."""
        ...


@dataclass(frozen=True, slots=True)
class PolicyRead:
    """Who may see what, as of one moment, which is at or after `position`. `asks` says whether the database has
    realtime.may_subscribe."""

    position: Snapshot
    policies: Sequence[Policy]
    revocations: Sequence[Revocation]
    asks: bool


class PolicyReader(Protocol):
    """Reading who may see what."""

    async def policies(self) -> PolicyRead:
        """All policies, and the revocations that have not ended, as they are now."""
        ...

    async def may_subscribe(self, channel: str, claims: str) -> bool | None:
        """What the database's own realtime.may_subscribe says of these claims (JSON); None where it has no opinion.

        Raises Unavailable where it fails, or takes longer than a second."""
        ...

    async def close(self) -> None: ...


class Receiver(Protocol):
    """A server, as a bus sees it. No method awaits or raises."""

    def batch(self, batch: Batch) -> None:
        """A batch of the leader arrived whole. It may come late, twice, or out of order."""
        ...

    def wake(self) -> None:
        """Something is new, or may have been missed: read the event log.

        A bus says this after every connect, and in place of a batch that it does not carry."""
        ...

    def beat(self, leader: str, position: str) -> None:
        """The leader (its server id) is alive, and at this position (a token)."""
        ...


class Bus(Protocol):
    """What carries the leader's batches, or the news of them, to all servers.

    A bus may lose, repeat or reorder: each server applies a batch only from where it stands, and reads a hole from the
    event log. A bus must not fall silent for ever: it connects again by itself. It never
    hands to its receiver what the receiver's own server sent.

    A bus that carries whole batches has three things to see to. Snapshots of two incarnations can't be compared, so a
    batch travels with its incarnation, and one of another than the receiver's is a wake-up. `Batch.seen_at` is the
    monotonic clock of one machine, so the receiving side sets it. `Batch.schema` holds definitions, which whoever reads
    the event log loads, so a batch that changes one is a wake-up too. So is one with `rights`.
    """

    ready: bool  # it is connected and would hear what others say

    async def run(self, receiver: Receiver) -> None:
        """Carry messages until cancelled."""
        ...

    async def publish(self, batch: Batch) -> None:
        """Tell all servers of a batch. The server reads nothing further while this is awaited, so it must return at
        once: what can't go out now is queued, within bounds, or dropped for a wake-up."""
        ...

    async def beat(self, position: str) -> None:
        """Tell all servers that this one leads, and where it stands (a token). As quick as `publish`."""
        ...


class LiveEventLog(EventLog, Protocol):
    """An event log as the roof holds it: it has connections, which stand or not, and which are closed in the end."""

    @property
    def connected(self) -> bool:
        """Whether what is new can be read now, as far as is known."""
        ...

    @property
    def fuse(self) -> FuseOpened | None:
        """Why writers leave changes out, while they do."""
        ...

    async def watch_floor(self) -> None:
        """Ask for the floor now and then, for ever, so that an idle server learns of a purge too."""
        ...

    async def close(self) -> None: ...


class Leadership(Protocol):
    """This server's part in that one server of the fleet leads: who leads reads first, and has old events removed."""

    leading: bool
    problems: list[WatchProblem]  # of watched tables, as far as this server leads
    strangers: list[StrangerAtLock]  # at locks that only a server needs, as far as this server leads

    @property
    def blocked(self) -> EventLogTurnBlocked | None:
        """Why no old events can be removed, as far as this server leads."""
        ...

    async def run(self) -> None:
        """Stand for leader, and lead when no other server does, for ever."""
        ...

    async def terminate_stale(self, silent_seconds: float) -> None:
        """End the sessions of a leader that was silent for so long."""
        ...


class Lead(Protocol):
    """Makes the leadership of a server. `pull` reads, applies and publishes what is new, and returns the number of
    commits; `beat` tells the fleet who leads; `published` is the position up to which all is published."""

    def __call__(
        self,
        *,
        pull: Callable[[], Awaitable[int]],
        beat: Callable[[], Awaitable[None]],
        published: Callable[[], Snapshot],
    ) -> Leadership: ...


@dataclass(frozen=True, slots=True)
class Backend:
    """All that a server follows. PostgreSQL is the only one so far.

    `listening` says whether the notifications of the database reach this server, as far as it needs them.
    """

    event_log: LiveEventLog
    tables: Tables
    rows: RowReader
    policies: PolicyReader
    bus: Bus
    lead: Lead
    listening: Callable[[], bool]
