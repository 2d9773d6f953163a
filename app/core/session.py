"""A connection as a state machine, with no I/O: its channels, its one position, and the messages of a unit for it.

Invariant: everything up to `point` has been sent for every channel in `channels`.
"""

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from enum import Enum
from typing import Final

from app.core import wire
from app.core.audience import Channel, Point
from app.core.index import Seen
from app.model.channel import Topic, check_distinct
from app.model.errors import BadChannel, BadRequest, ResetReason

# Characters of the names of one connection's channels: each is held several times, and a stranger may open many
# connections. A thousand names of 131 characters fit, so three UUIDs each.
NAMES_LIMIT: Final = 128 << 10


class State(Enum):
    NEW = "new"  # has no position yet
    FEEDING = "feeding"  # gets history at its own pace
    LIVE = "live"  # is a member of the hub
    CLOSED = "closed"


class Session:
    """`over` is true once nothing more may be sent: the connection was hung up on, or closed."""

    __slots__ = ("channels", "limit", "over", "point", "state")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.over = False
        self.state = State.NEW
        self.channels: dict[str, Channel] = {}
        self.point: Point | None = None

    def check_subscribe(self, names: Iterable[str]) -> None:
        """Raises BadRequest or BadChannel where these channels can't be added."""
        names = list(names)
        check_distinct(names, "channels")
        for name in names:
            if name in self.channels:
                raise BadRequest(f"{name!r} is subscribed already", field="channels")
        if len(self.channels) + len(names) > self.limit:
            raise BadRequest(f"a connection has at most {self.limit} channels", field="channels")
        if sum(map(len, self.channels)) + sum(map(len, names)) > NAMES_LIMIT:
            raise BadRequest(
                f"the names of a connection's channels have at most {NAMES_LIMIT} characters in all", field="channels"
            )

    def check_unsubscribe(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self.channels:
                raise BadChannel(f"{name!r} is not subscribed on this connection", channel=name)

    def feed(self, point: Point) -> None:
        """The connection is at `point` and gets what follows from history."""
        self.point = point
        self.state = State.FEEDING

    def go_live(self, point: Point) -> None:
        self.point = point
        self.state = State.LIVE

    def close(self) -> None:
        self.over = True
        self.state = State.CLOSED

    @property
    def closed(self) -> bool:
        return self.state is State.CLOSED


def part(
    seen: Iterable[Seen],
    channels: Mapping[str, Channel],
    limit: int,
    end: Point | None,
    schema: AbstractSet[Topic],
) -> Iterator[wire.Message]:
    """The messages of a piece of a unit for one connection. `end` is where the unit ends; it is None where more
    follows.

    Channels of a table whose definition changed in the unit (its topic is in `schema`) get a `reset` in place of their
    changes. A unit in which nothing matched is a bare `position`.
    """
    token = end.token if end is not None else None
    told = [found for found in seen if found[0].table.relid not in schema]
    items = (wire.change(channel.json, change.body(form)) for change, channel, form in told)
    gone = [name for name, channel in channels.items() if channel.topic in schema]
    table = told[0][0].table.channel if told else ""
    yield from wire.changes(items, None if gone else token, limit, table)
    if end is not None and gone:
        yield wire.reset(gone, ResetReason.SCHEMA, token)
    elif token is not None and not told:
        yield wire.position(token)
