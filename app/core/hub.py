"""Who listens to what, and the fan-out of a batch: encode once per audience (app.core.audience).

Connections that are not live (replaying, lagging) keep their channels registered here but are no members: they are fed
from history.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from app.core import wire
from app.core.audience import Burst, Channel, Group, Point, audiences, one_by_one
from app.core.routing import empties, ordered, views
from app.model.change import Batch, Change, Form, Transaction, Values, text_json
from app.model.channel import Topic
from app.model.observations import Transport

MESSAGE_BYTES = 1 << 20
FED_BYTES = 64 << 10  # about the size of a message to a client that is fed from history
LIVE_BYTES = 512 << 10  # a live client whose part of one batch is larger is fed from history


@dataclass(slots=True)
class _Listeners:
    """The channels of one topic."""

    whole: Channel | None = None
    seen_whole: list[tuple[Channel, Form]] = field(default_factory=list)  # what `matches` finds where there is no route
    routed: dict[tuple[str, ...], dict[Values, Channel]] = field(default_factory=dict)

    def all(self) -> Iterator[Channel]:
        if self.whole:
            yield self.whole
        for channels in self.routed.values():
            yield from channels.values()


class Delivery(NamedTuple):
    """What one audience got, for the metrics."""

    messages: Sequence[wire.Message]
    members: dict[Transport, int]


class Hub:
    """`limit` is about the size of a message to a live client, in bytes; `fed_limit` that of a message to a client
    that is fed from history. `burst` gives the same bytes to many sockets. `batches` counts the batches fanned out."""

    def __init__(self, limit: int | None = None, burst: Burst = one_by_one) -> None:
        self._burst = burst
        self.limit = limit or MESSAGE_BYTES
        self.fed_limit = min(self.limit, FED_BYTES)
        self._live_limit = min(self.limit, LIVE_BYTES)
        self.batches = 0
        self._topics: defaultdict[Topic, _Listeners] = defaultdict(_Listeners)
        self._channels: dict[tuple[Topic, str], Channel] = {}

    def acquire(self, topic: Topic, name: str, route: tuple[str, ...] = (), values: tuple[str, ...] = ()) -> Channel:
        """The channel of this name, made where nobody has it yet. Each acquire is undone by one release."""
        channel = self._channels.get((topic, name))
        if channel is None:
            channel = self._channels[topic, name] = Channel(name, topic, route, values, text_json(name))
            listeners = self._topics[topic]
            if route:
                listeners.routed.setdefault(route, {})[values] = channel
            else:
                listeners.whole, listeners.seen_whole = channel, [(channel, Form.WHOLE)]
        channel.users += 1
        return channel

    def release(self, channel: Channel) -> None:
        channel.users -= 1
        if channel.users:
            return
        del self._channels[channel.topic, channel.name]
        listeners = self._topics[channel.topic]
        if channel.route:
            del listeners.routed[channel.route][channel.values]
            if not listeners.routed[channel.route]:
                del listeners.routed[channel.route]
        else:
            listeners.whole, listeners.seen_whole = None, []
        if not listeners.whole and not listeners.routed:
            del self._topics[channel.topic]

    def matches(self, change: Change) -> list[tuple[Channel, Form]]:
        """The channels that see this change, and how. A row that changes its route leaves before it enters."""
        listeners = self._topics.get(change.table.relid)
        if listeners is None:
            return []
        found = listeners.seen_whole
        if not listeners.routed:
            return found
        if empties(change):
            return [(channel, Form.WHOLE) for channel in listeners.all()]
        staying: list[tuple[Channel, Form]] = []
        for route, channels in listeners.routed.items():
            picks = change.table.picks.get(route)
            if picks is None:
                continue
            for values, form in views(change, picks):
                channel = channels.get(values)
                if channel is None:
                    continue
                if form is Form.LEAVE:
                    found = [*found, (channel, form)]
                else:
                    staying.append((channel, form))
        return found + staying

    def seen(self, transactions: Iterable[Transaction]) -> Iterator[tuple[Change, Channel, Form]]:
        """What each channel sees, in order."""
        return ordered(transactions, self.matches)

    def fan_out(self, batch: Batch, before: Point, after: Point) -> list[Delivery]:
        """Give every live connection its part of the batch.

        A connection whose part is large, or whose table changed its definition, or whose rights may have changed, falls
        behind instead, at `before`. So does one that has a channel in a table of a batch that is too large to hold; the
        others stay live.
        """
        self._set_aside(batch, before)
        matched: defaultdict[Channel, list[tuple[int, str, bytes]]] = defaultdict(list)
        for number, (change, channel, form) in enumerate(self.seen(batch.transactions or ())):
            if channel.members:
                item = wire.change(channel.json, change.body(form))
                matched[channel].append((number, change.table.channel, item))
        self.batches += 1
        for channel in matched:
            channel.told = self.batches
        # Every audience is found before any is sent to, because a member that falls behind leaves its channels.
        found = list(audiences(matched)) if matched else []
        return [self._deliver(matched, channels, group, before, after) for channels, group in found]

    def _deliver(
        self, matched: "_Matched", channels: tuple[Channel, ...], group: Group, before: Point, after: Point
    ) -> Delivery:
        items = (
            matched[channels[0]]
            if len(channels) == 1
            else sorted((i for c in channels for i in matched[c]), key=_number)
        )
        if sum(len(item) for _, _, item in items) > self._live_limit and len(items) > 1:
            for member in list(group.members()):
                member.fall_behind(before)
            return Delivery((), {})
        messages = list(wire.changes((item for _, _, item in items), after.token, self.limit, items[0][1]))
        return Delivery(messages, group.send(messages, before, self._burst))

    def _set_aside(self, batch: Batch, before: Point) -> None:
        topics: set[Topic] = {table.relid for table in batch.schema}
        if batch.transactions is None:
            topics = set(self._topics) if batch.touched is None else topics | batch.touched
        aside = [channel for topic in topics & self._topics.keys() for channel in self._topics[topic].all()]
        members = {m for channel in aside for m in channel.members}
        if batch.rights is not None:
            everybody = {m for channel in self._channels.values() for m in channel.members}
            members |= {m for m in everybody if m.concerned(batch.rights)}
        for member in members:
            member.fall_behind(before)


_Matched = dict[Channel, list[tuple[int, str, bytes]]]


def _number(item: tuple[int, str, bytes]) -> int:
    return item[0]
