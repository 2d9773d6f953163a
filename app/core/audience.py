"""Channels and their live members, and how the same messages get to many of them at once.

An audience is the set of live connections for which the same channels matched in one batch. To send to thousands of
members costs the kernel's work, and half as much again if each member is looked at, for its objects have left the
processor's cache by then. So a channel keeps its members grouped by their sockets, and a burst gives all sockets of a
group the same bytes.

Invariants
- A group sends directly only to a member that has nothing unsent.
- A member whose `direct` changes calls `Channel.regroup` before anything more is written to it.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, Self

from app.core import wire
from app.model.channel import Topic
from app.model.observations import Transport
from app.model.position import Snapshot
from app.model.rights import RightsChange


class Socket(Protocol):
    """A socket that does not block. `send` returns how many bytes the kernel took, or raises OSError. `fileno` is -1
    once the socket is closed."""

    def send(self, data: bytes, /) -> int: ...

    def fileno(self) -> int: ...


Burst = Callable[[Collection[Socket], bytes], list[tuple[Socket, int]]]


class Point(NamedTuple):
    """A position and its token; the token is None where it would be over the limit."""

    snapshot: Snapshot
    token: str | None


class Out(Protocol):
    """Where a connection's bytes go. `direct` is its socket; it is None where the hub may not send to the socket
    itself, because something unsent goes first, or because more is to be done than to send (TLS)."""

    @property
    def direct(self) -> Socket | None: ...


class Subscriber(Protocol):
    """A live connection, as the hub sees it. No method may block, raise or await."""

    @property
    def transport(self) -> Transport: ...

    @property
    def sink(self) -> Out: ...

    def concerned(self, change: RightsChange) -> bool:
        """Whether the client may lose a right by this change."""
        ...

    def deliver(self, messages: Sequence[wire.Message], data: bytes, sent: int, before: Point) -> bool:
        """Write these messages. Their bytes are `data`, of which the socket took `sent` already. False where the
        connection had to fall behind instead, at `before`: then `sent` was 0."""
        ...

    def fall_behind(self, point: Point) -> None:
        """Leave the live stream at `point`; what follows comes from history, at the connection's own pace."""
        ...


def one_by_one(sockets: Collection[Socket], data: bytes) -> list[tuple[Socket, int]]:
    """Give the same bytes to all. Returns those that did not take them whole, with how many they took.

    This is the hottest loop of the product. Each further call in it costs a hundredth of a delivery, and so does each
    object that it looks at.
    """
    size, short = len(data), list[tuple[Socket, int]]()
    for socket in sockets:
        try:
            sent = socket.send(data)
        except OSError:
            sent = 0
        if sent != size:
            short.append((socket, sent))
    return short


class Group:
    """Members by how they are sent to: `sockets` and `events` directly, `slow` through their connection."""

    __slots__ = ("events", "slow", "sockets")

    def __init__(self, members: Iterable[Subscriber]) -> None:
        self.sockets: dict[Socket, Subscriber] = {}
        self.events: dict[Socket, Subscriber] = {}
        self.slow: list[Subscriber] = []
        for member in members:
            socket = member.sink.direct
            if socket is None:
                self.slow.append(member)
            else:
                (self.sockets if member.transport == "ws" else self.events)[socket] = member

    def without(self, members: Iterable[Subscriber]) -> Self:
        """The same but for these."""
        gone = set(members)
        rest = type(self)(())
        rest.sockets, rest.events = self.sockets.copy(), self.events.copy()
        rest.slow = [member for member in self.slow if member not in gone]
        for socket in [member.sink.direct for member in gone if member.sink.direct is not None]:
            rest.sockets.pop(socket, None)
            rest.events.pop(socket, None)
        return rest

    def members(self) -> Iterable[Subscriber]:
        yield from self.sockets.values()
        yield from self.events.values()
        yield from self.slow

    def send(self, messages: Sequence[wire.Message], before: Point, burst: Burst) -> dict[Transport, int]:
        """Give all of them these messages. Returns how many got them."""

        def give(group: Mapping[Socket, Subscriber], data: bytes) -> int:
            short = burst(group.keys(), data)
            got = [group[socket].deliver(messages, data, sent, before) for socket, sent in short]
            return len(group) - got.count(False)

        counts: dict[Transport, int] = {"ws": 0, "sse": 0}
        if self.sockets:
            counts["ws"] = give(self.sockets, wire.frames(messages))
        if self.events:
            counts["sse"] = give(self.events, wire.chunks(messages))
        for member in self.slow:
            counts[member.transport] += member.deliver(messages, b"", 0, before)
        return counts


@dataclass(slots=True, eq=False)
class Channel:
    """A subscribed channel: `members` are its live connections, `users` counts all that hold it. `told` is the number
    of the last batch that had something for its members (see Hub.batches)."""

    name: str
    topic: Topic
    route: tuple[str, ...]
    values: tuple[str, ...]
    json: bytes
    members: dict[Subscriber, None] = field(default_factory=dict)  # as they came
    users: int = 0
    told: int = 0
    _group: Group | None = None

    def join(self, member: Subscriber) -> None:
        self.members[member] = None
        self._group = None

    def leave(self, member: Subscriber) -> None:
        self.members.pop(member, None)
        self._group = None

    def regroup(self) -> None:
        """A member is sent to in another way than before."""
        self._group = None

    @property
    def group(self) -> Group:
        if self._group is None:
            self._group = Group(self.members)
        return self._group


def audiences(matched: Iterable[Channel]) -> Iterable[tuple[tuple[Channel, ...], Group]]:
    """The audiences of the channels that matched: which members are in which of them.

    A member of the largest channel is looked at only if it is in another that matched, too."""
    channels = sorted(matched, key=lambda channel: len(channel.members))
    largest = channels.pop()
    if not channels:
        yield (largest,), largest.group
        return
    chosen: defaultdict[Subscriber, list[Channel]] = defaultdict(list)
    for channel in channels:
        for member in channel.members:
            chosen[member].append(channel)
    shared = chosen.keys() & largest.members.keys()
    for member in shared:
        chosen[member].append(largest)
    groups: defaultdict[tuple[Channel, ...], list[Subscriber]] = defaultdict(list)
    for member, theirs in chosen.items():
        groups[tuple(theirs)].append(member)
    if len(shared) < len(largest.members):
        yield (largest,), largest.group.without(shared) if shared else largest.group
    for theirs_, members in groups.items():
        yield theirs_, Group(members)
