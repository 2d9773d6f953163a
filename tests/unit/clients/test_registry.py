"""All clients of a server: who is greeted, who hears a heartbeat and what, and who is told of a lost position."""

from app.clients.connection import Connection
from app.core.session import State
from app.model.claims import ANONYMOUS, Identity
from app.model.errors import CloseCode, ResetReason
from tests.unit.memory_sink import MemorySink
from tests.unit.stage import Stage


async def connected(stage: Stage, *channels: str, identity: Identity = ANONYMOUS) -> tuple[Connection, MemorySink]:
    """A client that was greeted and has subscribed; what it was sent so far is forgotten."""
    sink = MemorySink()
    connection = Connection(sink, stage.server.registry, identity)
    connection.open()
    if channels:
        await connection.subscribe(channels, None)
    sink.written.clear()
    connection.outbox.quiet = True
    return connection, sink


async def test_a_client_is_greeted_and_known_until_it_is_closed(stage: Stage) -> None:
    registry, sink = stage.server.registry, MemorySink()
    somebody = Identity("somebody")
    connection = Connection(sink, registry, somebody)
    assert connection.identity == somebody
    assert len(registry) == 0
    connection.open()
    assert len(registry) == 1
    assert sink.written == [registry.welcome]
    connection.close()
    connection.close()
    assert len(registry) == 0


async def test_live_clients_that_heard_nothing_hear_the_same_position_made_once(stage: Stage) -> None:
    clients = [await connected(stage, "posts") for _ in range(3)]
    await stage.server.registry._round()
    (told,) = {message for _, sink in clients for message in sink.written}
    assert (told.kind, told.position) == ("position", stage.token)
    assert all(len(sink.written) == 1 for _, sink in clients)
    for connection, _ in clients:
        connection.close()


async def test_who_has_had_a_position_since_is_left_alone_and_hears_the_next_beat(stage: Stage) -> None:
    connection, sink = await connected(stage, "posts")
    key = await stage.commit()
    assert sink.keys == [key]
    await stage.server.registry._round()
    assert sink.kinds == ["changes"]
    await stage.server.registry._round()
    assert sink.kinds == ["changes", "position"]
    connection.close()


async def test_who_is_not_live_hears_a_pong_where_all_that_it_was_sent_has_gone_out(stage: Stage) -> None:
    connection, sink = await connected(stage)
    assert connection.session.state is State.NEW
    sink.unsent = 1
    await stage.server.registry._round()
    assert sink.kinds == []
    sink.take()
    await stage.server.registry._round()
    assert sink.kinds == ["pong"]
    connection.close()


async def test_who_has_gone_hears_nothing(stage: Stage) -> None:
    connection, sink = await connected(stage, "posts")
    connection.close()
    await stage.server.registry._round()
    assert sink.written == []


async def test_a_lost_position_is_a_reset_to_the_live_and_the_end_for_who_is_being_fed(stage: Stage) -> None:
    live, live_sink = await connected(stage, "posts")
    fed, fed_sink = await connected(stage, "posts")
    fed_sink.unsent = 1 << 20
    await stage.commit()
    assert (live.session.state, fed.session.state) == (State.LIVE, State.FEEDING)
    live_sink.written.clear()
    stage.server.registry.rebased(ResetReason.LOST)
    assert live_sink.messages == [{"type": "reset", "channels": ["posts"], "reason": "lost", "position": stage.token}]
    assert fed_sink.closed is CloseCode.RESTART
    live.close()
    fed.close()
    await stage.turns()
