"""What a client keeps for the judge in place of every message that it got.

Invariants: the rows of a change are kept as one text each, which the judge's copy of the event log and all clients
share, so that a transaction of 100,000 rows costs a client little; every reset is kept with what the client held
before it, so that it can be explained; what was judged is forgotten.
"""

import sys
import time
from dataclasses import dataclass
from typing import Any

from tests.support.stream import Change, Message, Segment, Stream
from tests.support.truth import canonical


@dataclass(frozen=True)
class Held:
    """A position and when it was last known to be good (seconds of the monotonic clock)."""

    position: str
    at: float


@dataclass(frozen=True)
class SeenReset:
    client: str
    reason: str
    channels: tuple[str, ...]
    held: tuple[Held, ...]  # what the client came with: one for each channel
    at: float
    clock: float  # seconds since the epoch
    position: str


@dataclass(frozen=True, order=True)
class Pause:
    """How long a client's position stood still, from when (seconds of the monotonic clock), and whose."""

    seconds: float = 0.0
    began: float = 0.0
    client: str = ""


class Books:
    """What a client keeps in place of every raw message."""

    def __init__(self) -> None:
        self.deliveries = self.units = 0
        moment = time.monotonic()
        self.heard_at = self.position_at = self.pause_from = moment
        self.longest_pause = Pause()
        self.resets: list[SeenReset] = []
        self.ages: dict[str, float] = {}  # of positions that a subscribe went out with


class Kept(Stream):
    """The stream of a client, with its books; `raw` are the lists that the client fills and that stay empty."""

    def __init__(self, name: str, *raw: list[Any]) -> None:
        super().__init__(name)
        self.books, self._raw = Books(), raw
        self._refused = False

    def connected(self) -> None:
        self._refused = False
        super().connected()

    def feed(self, message: Message) -> None:
        books, moment = self.books, time.monotonic()
        books.heard_at = moment
        for raw in self._raw:
            raw.clear()
        for change in message.get("changes", ()):
            pack(change)
        # A subscribe that was refused leaves its channels out: this connection's positions are none of theirs.
        if not self._refused:
            self._note(message, moment)
            super().feed(message)
        self._refused = self._refused or message["type"] == "error"

    def _note(self, message: Message, moment: float) -> None:
        books = self.books
        if message["type"] == "reset":
            books.resets.append(self._seen(message, moment))
        if "position" in message and message["type"] != "subscribed":
            paused = Pause(moment - books.pause_from, books.pause_from, self.name)
            books.longest_pause = max(books.longest_pause, paused)
            books.pause_from = moment
            books.units += 1
            if message["position"] != self.position:
                books.position_at = moment
        books.deliveries += len(message.get("changes", ()))

    def _seen(self, message: Message, moment: float) -> SeenReset:
        held = []
        for channel in message["channels"]:
            asked = self.pending.get(channel)
            if asked is not None:
                held.append(Held(asked, self.books.ages.get(asked, self.books.position_at)))
            elif self.position is not None:
                held.append(Held(self.position, self.books.position_at))
        return SeenReset(
            self.name, message["reason"], tuple(message["channels"]), tuple(held), moment, time.time(),
            message["position"],
        )  # fmt: skip


def pack(change: Change) -> None:
    """Its rows become text, and all text is shared."""
    for name, value in change.items():
        if name in ("data", "old"):
            change[name] = canonical(value)
        elif isinstance(value, str):
            change[name] = sys.intern(value)


def emptied(stream: Stream) -> None:
    """Forget what has been judged: the record goes on from where the client is."""
    assert stream.position is not None
    stream.done, stream.resets, stream.duplicates, stream.faults = [], [], [], []
    stream._again = {}
    stream.open = {channel: Segment(channel, stream.position) for channel in stream.open}
