"""WebSocket clients over a real socket: what each kind of input is answered with, and how every connection ends."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType

from app.clients.connection import BACKLOG_BYTES
from app.core.hub import LIVE_BYTES
from app.core.session import State
from app.model.observations import (
    ConnectionClosed,
    ConnectionFailed,
    ConnectionOpened,
    Lagging,
    MessagesReceived,
    Observation,
)
from app.model.settings import Settings
from app.web import rate
from app.web.sinks import HIGH_WATER, WebSocketSink
from harness.facts import eventually, holds, turn
from tests.unit.house import House, running

LIMIT = 65536


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with running() as house:
        yield house


@pytest.fixture
async def http() -> AsyncIterator[ClientSession]:
    async with ClientSession() as session:
        yield session


@pytest.fixture
async def ws(house: House, http: ClientSession) -> AsyncIterator[ClientWebSocketResponse]:
    """A client that has been welcomed."""
    async with http.ws_connect(f"{house.url}/realtime/ws", max_msg_size=0) as ws:
        assert (await ws.receive_json())["type"] == "welcome"
        yield ws


async def subscribe(ws: ClientWebSocketResponse, *channels: str, **more: Any) -> None:
    await ws.send_json({"type": "subscribe", "id": 1, "channels": channels} | more)
    assert (await ws.receive_json())["type"] == "subscribed"


async def until(ws: ClientWebSocketResponse, kind: str) -> dict[str, Any]:
    """The next message of this type."""
    while True:
        message: dict[str, Any] = await ws.receive_json(timeout=10)
        if message["type"] == kind:
            return message


async def closing(ws: ClientWebSocketResponse) -> int:
    """The close code that the server sends."""
    while True:
        message = await ws.receive(timeout=10)
        if message.type is WSMsgType.CLOSE:
            code: int = message.data
            return code
        assert message.type is WSMsgType.TEXT, message


async def test_a_committed_row_arrives_with_its_position(house: House, ws: ClientWebSocketResponse) -> None:
    await subscribe(ws, "posts", "posts:author_id=7")
    [key] = await house.insert(author=7, body="hello")
    message = await until(ws, "changes")
    assert [c["channel"] for c in message["changes"]] == ["posts", "posts:author_id=7"]
    assert {c["row"] for c in message["changes"]} == {key}
    assert message["position"] == house.broadcaster.point.token


async def test_many_clients_get_the_same_bytes(house: House, http: ClientSession) -> None:
    sockets = [await http.ws_connect(f"{house.url}/realtime/ws") for _ in range(20)]
    for ws in sockets:
        await until(ws, "welcome")
        await subscribe(ws, "posts")
        await until(ws, "position")
    await house.insert(body="x" * 70_000)
    assert len({(await ws.receive()).data for ws in sockets}) == 1
    assert all([await ws.close() for ws in sockets])


async def test_a_binary_message_is_answered_and_the_connection_stays(ws: ClientWebSocketResponse) -> None:
    await ws.send_bytes(b"\x00")
    assert (await until(ws, "error"))["code"] == "bad_request"
    await ws.send_json({"type": "ping", "id": "a"})
    assert await until(ws, "pong") == {"type": "pong", "id": "a"}


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"type":"nonsense"}', '{"type":"subscribe","channels":7}', "\x00", "9" * LIMIT]
)
async def test_bad_json_is_answered_and_the_connection_stays(ws: ClientWebSocketResponse, text: str) -> None:
    await ws.send_str(text)
    assert (await until(ws, "error"))["code"] == "bad_request"
    await ws.send_json({"type": "ping", "id": 1})
    await until(ws, "pong")


@pytest.mark.parametrize("size", [LIMIT + 1, 1 << 20, 30 << 20])
async def test_a_message_over_the_limit_closes_with_1009_which_arrives_although_the_rest_is_unread(
    house: House, ws: ClientWebSocketResponse, size: int
) -> None:
    await ws.send_str("x" * size)
    assert await closing(ws) == 1009
    assert house.observed(ConnectionFailed, lambda o: o == ConnectionFailed("ws", "too_large"))


async def test_the_close_code_of_a_client_is_echoed_and_counted(house: House, ws: ClientWebSocketResponse) -> None:
    assert house.observed(ConnectionOpened)
    await ws.close(code=4321)
    assert ws.close_code == 4321
    await eventually(lambda: house.observed(ConnectionClosed, lambda o: getattr(o, "code", None) == 4321))
    assert len(house.registry) == 0


async def test_a_client_that_vanishes_is_let_go(house: House, ws: ClientWebSocketResponse) -> None:
    await subscribe(ws, "posts")
    connection = ws._response.connection
    assert connection is not None
    assert connection.transport is not None
    connection.transport.abort()
    await eventually(lambda: len(house.registry) == 0)
    await house.insert()  # nobody is there, and nothing breaks


async def test_a_ping_of_the_websocket_protocol_is_answered(house: House, http: ClientSession) -> None:
    async with http.ws_connect(f"{house.url}/realtime/ws", autoping=False) as ws:
        await until(ws, "welcome")
        await ws.ping(b"are you there")
        message = await ws.receive(timeout=10)
        assert (message.type, message.data) == (WSMsgType.PONG, b"are you there")


async def test_a_flood_is_refused_and_then_ended_with_4429(ws: ClientWebSocketResponse) -> None:
    text = json.dumps({"type": "ping", "id": 5})

    async def flood() -> None:
        for _ in range(rate.BURST + 500):
            await ws.send_str(text)

    flooding = asyncio.create_task(flood())
    answers = []
    while (message := await ws.receive(timeout=20)).type is WSMsgType.TEXT:
        answers.append(json.loads(message.data))
    assert (message.type, message.data) == (WSMsgType.CLOSE, 4429)
    refused = [a for a in answers if a["type"] == "error"]
    assert len(refused) == rate.STRIKES
    assert {(a["code"], a["id"]) for a in refused} == {("rate_limited", 5)}
    assert all(0 < a["retry_after_ms"] <= 61 for a in refused)
    assert len(answers) - len(refused) >= rate.BURST
    flooding.cancel()
    await asyncio.gather(flooding, return_exceptions=True)


async def test_a_slow_reader_is_fed_at_its_own_pace_and_misses_nothing(
    house: House, ws: ClientWebSocketResponse, http: ClientSession
) -> None:
    await subscribe(ws, "posts")
    await until(ws, "position")
    written = []
    while not house.observed(Lagging):  # the client reads nothing; the kernel's buffers fill
        written += await house.insert(body="x" * 100_000, rows=5)
        await turn()
        assert len(written) < 1000
    for _ in range(20):
        written += await house.insert(body="x" * 100_000, rows=5)
    received: list[str] = []
    while len(received) < len(written):
        received += [c["row"] for c in (await until(ws, "changes"))["changes"]]
    assert received == written
    await eventually(lambda: house.observed(Lagging, lambda o: o == Lagging(-1)))


def pings(house: House) -> list[Observation]:
    return [o for o in house.seen if isinstance(o, MessagesReceived) and o.type == "ping"]


async def test_who_does_not_take_all_at_once_gets_the_rest_in_order_and_then_directly_again(
    house: House, ws: ClientWebSocketResponse
) -> None:
    """What the hub sends past the connection never overtakes what waits in it, nor the answers to commands."""
    await subscribe(ws, "posts")
    [connection] = house.everyone

    def direct() -> bool:
        return connection.sink.direct is not None

    written = await house.insert()
    assert direct()
    assert ws._conn is not None
    assert ws._conn.transport is not None
    ws._conn.transport.pause_reading()
    while direct():
        written += await house.insert(body="x" * 50_000)
    assert connection.sink.backlog()
    assert connection.session.state is State.LIVE
    for n in range(3):
        written += await house.insert(body="y")
        await ws.send_json({"type": "ping", "id": n})
        await eventually(lambda n=n: len(pings(house)) > n)  # type: ignore[misc]
    ws._conn.transport.resume_reading()
    received, pongs = list[str](), list[tuple[int, int]]()
    while len(received) < len(written) or len(pongs) < 3:
        message = await ws.receive_json(timeout=10)
        if message["type"] == "changes":
            received += [c["row"] for c in message["changes"]]
        elif message["type"] == "pong":
            pongs.append((message["id"], len(received)))
    assert received == written
    assert pongs == [(n, len(written) - 2 + n) for n in range(3)]
    await house.insert()
    assert direct()


async def test_after_bytes_that_were_lost_nothing_more_is_sent(house: House, ws: ClientWebSocketResponse) -> None:
    """Where the client has ended its side, the transport takes nothing more; a later change would be read in the midst
    of the one that was cut."""
    await subscribe(ws, "posts")
    [connection] = house.everyone
    await house.insert()
    sink = connection.sink
    assert isinstance(sink, WebSocketSink)
    there = [sink.direct is not None]
    sink._socket.close()
    sink.write_rest(memoryview(b"the rest of a frame"))
    there.append(sink.direct is not None)
    sink.control(b"another")
    there.append(sink.direct is not None)
    assert there == [True, False, False]


async def test_a_client_that_is_fed_leaves_the_groups_of_the_others_alone(
    house: House, ws: ClientWebSocketResponse
) -> None:
    await subscribe(ws, "posts")
    [connection] = house.everyone
    await house.insert()
    [channel] = connection.session.channels.values()
    assert list(channel.group.members()) == [connection]
    connection._leave_live()
    group = channel.group
    connection.sink._route(None)  # type: ignore[attr-defined]
    assert channel.group is group


async def test_who_does_not_read_the_answers_is_not_listened_to(house: House, ws: ClientWebSocketResponse) -> None:
    asked = 400

    async def ask() -> None:
        for n in range(asked):
            await ws.send_json({"type": "ping", "id": f"{n}" + "x" * 60_000})

    asking = asyncio.create_task(ask())
    [connection] = house.everyone
    await eventually(lambda: connection.sink.backlog() > HIGH_WATER)
    await holds(lambda: connection.sink.backlog() < HIGH_WATER + 4 * LIMIT, 0.3, "answers do not pile up")
    answers = [await ws.receive_json(timeout=10) for _ in range(asked)]
    assert [int(a["id"].rstrip("x")) for a in answers] == list(range(asked))
    await asking


async def test_a_peer_that_takes_nothing_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.web.sinks.PEER_TIMEOUT", 0.5)
    async with running() as house, ClientSession() as http, http.ws_connect(f"{house.url}/realtime/ws") as ws:
        await until(ws, "welcome")
        await subscribe(ws, "posts")
        await until(ws, "position")
        for _ in range(100):  # far more than the kernel takes
            await house.insert(body="x" * 100_000, rows=5)
            await turn()
        await eventually(lambda: len(house.registry) == 0)


async def test_pages_of_other_origins_are_refused(house: House, http: ClientSession) -> None:
    for origin in (
        "https://evil.example",
        "null",
        "http://127.0.0.1:1",
        "http://[",
        f"http://127.0.0.1.evil:{house.server.port}",
    ):
        ws = await http.ws_connect(f"{house.url}/realtime/ws", headers={"Origin": origin})
        message = await ws.receive(timeout=10)  # a browser shows its page this, and not the status of a handshake
        assert (message.type, message.data) == (WSMsgType.CLOSE, 4403), origin
        assert message.extra == "pages of this origin may not connect (SOBRANIE_ORIGINS)"
    assert len(house.registry) == 0
    assert not house.observed(ConnectionOpened)


async def test_pages_of_this_server_and_of_the_origins_set_are_let_in(http: ClientSession) -> None:
    async with running(settings=Settings(port=0, origins=("https://App.example",))) as house:
        for origin in ("https://app.example", house.url, house.url.replace("http", "https")):
            async with http.ws_connect(f"{house.url}/realtime/ws", headers={"Origin": origin}) as ws:
                await until(ws, "welcome")


async def test_a_plain_request_is_told_what_this_is(house: House, http: ClientSession) -> None:
    async with http.get(f"{house.url}/realtime/ws") as answer:
        assert answer.status == 426
        assert answer.headers["Upgrade"] == "websocket"


async def test_a_stop_tells_every_client_when_to_come_back(house: House, http: ClientSession) -> None:
    sockets = [await http.ws_connect(f"{house.url}/realtime/ws") for _ in range(5)]
    stopping = asyncio.create_task(house.server.stop())
    times = set()
    for ws in sockets:
        message = await until(ws, "reconnect")
        assert message["reason"] == "restart"
        times.add(message["after_ms"])
        assert await closing(ws) == 1012
    await asyncio.wait_for(stopping, 5)
    assert len(times) > 1
    assert len(house.registry) == 0


async def test_a_stop_does_not_wait_for_a_client_that_never_answers(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.web.sinks.LINGER", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", house.server.port)
    writer.write(
        b"GET /realtime/ws HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")
    await eventually(lambda: len(house.registry) == 1)
    await asyncio.wait_for(house.server.stop(), 3)
    assert b"\x88" in await reader.read()  # the close frame came, then the end
    writer.close()


async def test_what_a_client_that_stopped_reading_costs_is_bounded_live_or_fed(house: House) -> None:
    """Unsent in this process: a backlog and one message; what the kernel took is the kernel's."""
    old = house.broadcaster.point.token
    for _ in range(100):
        await house.insert(body="x" * 1_000, rows=50)
    stalled = [await _deaf(house) for _ in range(20)]
    for n, writer in enumerate(stalled):
        message = {"type": "subscribe", "channels": ["posts"], **({"position": old} if n % 2 else {})}
        text = json.dumps(message).encode()
        size = bytes([0x80 | len(text)]) if len(text) < 126 else b"\xfe" + len(text).to_bytes(2)
        writer.write(b"\x81" + size + b"\0\0\0\0" + text)
    connections = house.everyone
    await eventually(lambda: sum(c.session.state is State.LIVE for c in connections) == 10)
    most = 0
    while any(c.session.state is State.LIVE for c in connections):  # the kernel takes some megabytes of each
        await house.insert(body="x" * 1_000, rows=50)
        await turn()
        most = max(most, *(c.sink.backlog() for c in connections))
        assert len(house.log.committed) < 2_000
    assert len(house.everyone) == len(connections) == 20
    assert HIGH_WATER < most < BACKLOG_BYTES + LIVE_BYTES
    await holds(lambda: all(c.sink.backlog() < BACKLOG_BYTES + LIVE_BYTES for c in connections), 0.2)
    for writer in stalled:
        writer.transport.abort()


async def _deaf(house: House) -> asyncio.StreamWriter:
    """A WebSocket whose client reads nothing but the answer's head."""
    reader, writer = await asyncio.open_connection("127.0.0.1", house.server.port)
    writer.write(
        b"GET /realtime/ws HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    return writer
