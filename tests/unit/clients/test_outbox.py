"""What is said to one client alone is counted, and a heartbeat knows whether a position was among it."""

from app.clients.outbox import Outbox
from app.core import wire
from app.model.errors import BadChannel
from app.model.observations import MessagesSent, Observation, Refused
from tests.unit.memory_sink import MemorySink


def made() -> tuple[Outbox, MemorySink, list[Observation]]:
    sink, seen = MemorySink(), list[Observation]()
    return Outbox(sink, seen.append), sink, seen


async def test_whatever_is_written_is_counted_by_kind_and_table_with_its_bytes() -> None:
    outbox, sink, seen = made()
    (changes,) = wire.changes([b'{"x":1}'], "p1", 1000, "posts")
    outbox.write([changes, wire.pong(7)])
    assert sink.written == [changes, *sink.written[1:]]
    assert sink.kinds == ["changes", "pong"]
    assert seen == [
        MessagesSent("changes", "posts", 1, len(changes.json)),
        MessagesSent("pong", "", 1, len(b'{"type":"pong","id":7}')),
    ]


async def test_it_is_quiet_until_a_position_goes_out() -> None:
    outbox, _, _ = made()
    assert outbox.quiet
    outbox.send(wire.pong(None))
    assert outbox.quiet, "a pong is no position"
    outbox.send(wire.position("p1"))
    assert not outbox.quiet


async def test_a_refusal_is_an_error_with_the_id_of_what_was_asked_and_is_counted() -> None:
    outbox, sink, seen = made()
    outbox.refuse(BadChannel("no such table", channel="nothing"), 7)
    assert sink.messages == [
        {"type": "error", "id": 7, "code": "bad_channel", "message": "no such table", "channel": "nothing"}
    ]
    assert seen[0] == Refused("bad_channel")
    assert isinstance(seen[1], MessagesSent)
