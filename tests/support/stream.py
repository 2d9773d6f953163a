"""What one client has applied, by the rules of the protocol alone, over any number of connections.

Invariants: what came in a unit that a disconnect left open is taken out of the record: it has to come again, as it was,
and is counted then; every other repetition, and everything that the protocol does not
allow, is a fault. A channel's record starts at the position that it asked with, or else at that of its `subscribed`.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]
Change = dict[str, Any]


@dataclass(frozen=True)
class Mark:
    """A position that came: all before it is complete."""

    position: str


@dataclass(frozen=True)
class Cut:
    """The connection ended here."""


@dataclass
class Segment:
    """One channel from its joining to its leaving."""

    channel: str
    start: str
    items: list[Change | Mark | Cut] = field(default_factory=list)

    count: int = 0
    ids: set[str] = field(default_factory=set)

    def add(self, change: Change) -> None:
        self.items.append(change)
        self.ids.add(change["id"])
        self.count += 1

    def take_back(self) -> Iterator[Change]:
        """Removes what came since the last position, newest first."""
        while self.items and isinstance(change := self.items[-1], dict):
            self.items.pop()
            self.ids.discard(change["id"])
            self.count -= 1
            yield change

    def changes(self) -> list[Change]:
        return [item for item in self.items if isinstance(item, dict)]


@dataclass(frozen=True)
class Duplicate:
    channel: str
    id: str
    first_connection: int
    again_connection: int
    late: bool  # a further position came before it came again: ids have to be remembered beyond that


def loads(text: str | bytes) -> Any:
    """JSON with numbers kept to the last digit."""
    return json.loads(text, parse_float=lambda digits: f"float {digits}")


class Stream:
    def __init__(self, name: str = "client") -> None:
        self.name = name
        self.position: str | None = None
        self.connection = 0
        self.marks = 0  # positions that came
        self.open: dict[str, Segment] = {}
        self.done: list[Segment] = []
        self.pending: dict[str, str | None] = {}
        self.duplicates: list[Duplicate] = []
        self.faults: list[str] = []
        self.resets: list[Message] = []
        self.errors: list[Message] = []
        self._here: set[str] = set()  # what this connection has said `subscribed` for
        self._since: dict[tuple[str, str], int] = {}
        self._again: dict[tuple[str, str], tuple[int, int, Change]] = {}  # of units that were left open

    @property
    def segments(self) -> list[Segment]:
        return [*self.done, *self.open.values()]

    def changes(self, channel: str | None = None) -> list[Change]:
        """All applied changes, of one channel or of all (then channel by channel)."""
        return [c for s in self.segments if channel in (None, s.channel) for c in s.changes()]

    def count(self, channel: str | None = None) -> int:
        """How many changes were applied."""
        return sum(s.count for s in self.segments if channel in (None, s.channel))

    @property
    def joined(self) -> list[str]:
        return [channel for channel in self.open if channel not in self.pending]

    def asking(self, channels: Iterable[str], position: str | None) -> None:
        """A subscribe goes out."""
        for channel in channels:
            if channel not in self.joined:
                self.pending[channel] = position

    def wanted(self) -> list[tuple[list[str], str | None]]:
        """What a new connection must ask for: the joined channels from the position, the others as before."""
        again = [([channel], position) for channel, position in self.pending.items()]
        return [(self.joined, self.position), *again] if self.joined else again

    def connected(self) -> None:
        self.connection += 1
        self._here = set()

    def cut(self) -> None:
        """The connection is gone. A channel that asked without a position and was not joined starts afresh."""
        for channel, position in self.pending.items():
            if position is None and channel in self.open:
                for gone in self.open.pop(channel).changes():
                    self._again.pop((channel, gone["id"]), None)
        for channel, segment in self.open.items():
            for change in segment.take_back():
                self._again[channel, change["id"]] = (self.connection, self.marks, change)
        self._since = {}
        for segment in self.open.values():
            segment.items.append(Cut())

    def feed(self, message: Message) -> None:
        match message.get("type"):
            case "subscribed":
                self._subscribed(message)
            case "unsubscribed":
                for channel in message["channels"]:
                    self.pending.pop(channel, None)
                    self._here.discard(channel)
                    self._again = {name: n for name, n in self._again.items() if name[0] != channel}
                    self.done.append(self.open.pop(channel))
            case "changes":
                self._changes(message)
            case "position":
                self._mark(message["position"])
            case "reset":
                self._reset(message)
            case "error":
                self.errors.append(message)
            case "welcome" | "pong" | "reconnect":
                pass
            case other:
                self.faults.append(f"unknown message type {other!r}")

    def _subscribed(self, message: Message) -> None:
        self._here.update(message["channels"])
        for channel in message["channels"]:
            if channel not in self.open:
                if channel not in self.pending:
                    self.faults.append(f"subscribed to {channel}, which was not asked for")
                self.open[channel] = Segment(channel, self.pending.get(channel) or message.get("position", ""))
        if self.position is None and "position" in message:
            self._mark(message["position"])

    def _changes(self, message: Message) -> None:
        for change in message["changes"]:
            self._apply(change)
        if ("position" in message) == bool(message.get("more")):
            self.faults.append(f"a part needs `more` or a position: {sorted(message)}")
        if "position" in message:
            self._mark(message["position"])

    def _apply(self, change: Change) -> None:
        channel, name = change["channel"], (change["channel"], change["id"])
        if channel not in self.open:
            self.faults.append(f"a change of {channel}, which is not subscribed")
        elif name in self._since:
            self.faults.append(f"twice on one connection: {name}")
        elif change["id"] in self.open[channel].ids:
            self.faults.append(f"twice, and not in a unit that was left open: {name}")
        else:
            if name in self._again:
                before, marks, told = self._again.pop(name)
                self.duplicates.append(Duplicate(*name, before, self.connection, self.marks > marks))
                if told != change:
                    self.faults.append(f"came again, and was another: {told} then {change}")
            self._since[name] = self.connection
            self.open[channel].add(change)

    def _mark(self, position: str) -> None:
        """Closes what came for the channels of this connection. One that was cut off before it was joined is none of
        them until it is subscribed again: what it got stays open."""
        self.marks += position != self.position
        self.position = position
        self._since = {(channel, id): n for (channel, id), n in self._since.items() if channel not in self._here}
        for channel in self.open.keys() & self._here:
            self.open[channel].items.append(Mark(position))
            self.pending.pop(channel, None)

    def _reset(self, message: Message) -> None:
        """The channel's record ends here; it goes on, as a new one, from the position of the reset."""
        self.resets.append(message)
        self._here.update(message["channels"])
        self._again = {name: n for name, n in self._again.items() if name[0] not in message["channels"]}
        for channel in message["channels"]:
            before = self.open.pop(channel, None)
            if before is not None and before.changes():
                self.done.append(before)
            self.open[channel] = Segment(channel, message["position"])
        self._mark(message["position"])
