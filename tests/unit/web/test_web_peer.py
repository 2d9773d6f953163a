"""Hostile and odd clients on a raw socket: whatever they do, they get the protocol's words, hold up nobody, and leave
nothing behind; and nothing of it is an error of the server."""

import asyncio
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wsproto.connection import Connection as Frames
from wsproto.events import Event

from app.model.errors import CloseCode
from app.model.observations import ConnectionClosed, ConnectionFailed, ConnectionOpened, Failed
from app.web.sinks import HIGH_WATER, PIECE
from app.web.talk import FRAMES, Talk
from harness.facts import eventually, holds, turn
from tests.unit.house import House, running
from tests.unit.raw import CLOSE, HANDSHAKE, LIVEZ, PING, PONG, STREAM, TEXT, Frame, Raw, frame, say


@pytest.fixture
async def house(caplog: pytest.LogCaptureFixture) -> AsyncIterator[House]:
    async with running() as house:
        yield house
        await Raw.all_gone()
        await eventually(lambda: balanced(house))
    assert not house.observed(Failed)
    # What asyncio and aiohttp say of an error that nobody caught.
    assert [r.getMessage() for r in caplog.get_records("call") if r.levelno >= logging.WARNING] == []


def balanced(house: House) -> bool:
    """Whether every client that came has gone, once, and left nothing behind."""
    count = Counter(type(o) for o in house.seen)
    left = (len(house.registry), len(house.server._clients._sinks), len(house.broadcaster.hub._channels))
    return count[ConnectionOpened] == count[ConnectionClosed] and not any(left)


async def welcomed(house: House, data: bytes = b"") -> Raw:
    raw = await Raw.connect(house, HANDSHAKE + data)
    assert b" 101 " in await raw.head()
    await raw.until("welcome")
    return raw


def code(frame: Frame) -> int:
    assert frame[0] == CLOSE, frame
    return int.from_bytes(frame[1][:2])


# The handshake.


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (b"Sec-WebSocket-Protocol: \xff", 101),
        (b"Sec-WebSocket-Extensions: permessage-deflate; \xe9", 101),
        (b"Cookie: \xff\xfe", 101),
        (b"Transfer-Encoding: gzip, chunked", 101),
        (b"Connection: upgrade, \xff", 426),
        (b"Sec-WebSocket-Version: 8", 426),
    ],
)
async def test_an_odd_handshake_is_taken_or_refused_and_never_an_error(
    house: House, header: bytes, status: int
) -> None:
    raw = await Raw.connect(house, HANDSHAKE[:-2] + header + b"\r\n\r\n")
    assert b" %d " % status in await raw.head()


@pytest.mark.parametrize("before", [LIVEZ, LIVEZ * 20, STREAM.replace(b"?channel=posts", b"")])
async def test_requests_before_the_handshake_on_the_same_connection_are_answered(house: House, before: bytes) -> None:
    raw = await Raw.connect(house, before + HANDSHAKE + say(type="ping", id=1))
    for _ in range(before.count(b"GET")):
        head = await raw.head()
        await raw.reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r")[0]))
    assert b" 101 " in await raw.head()
    assert (await raw.until("pong"))["id"] == 1


async def test_requests_behind_that_of_a_stream_are_not_answered(house: House) -> None:
    raw = await Raw.connect(house, LIVEZ + STREAM + LIVEZ * 50)
    assert b"application/json" in await raw.head()
    assert b"text/event-stream" in await raw.head()
    stopping = asyncio.create_task(house.server.stop())
    rest = await asyncio.wait_for(raw.reader.read(), 10)
    assert rest.endswith(b"0\r\n\r\n")
    assert b"HTTP/" not in rest
    await stopping


async def test_much_behind_the_handshake_in_one_segment_is_heard(house: House) -> None:
    raw = await welcomed(house, b"".join(say(type="ping", id=f"{n}" + "x" * 60_000) for n in range(8)))
    for n in range(8):
        assert (await raw.until("pong"))["id"].rstrip("x") == str(n)


# Frames.

CLOSED = frame(CLOSE, b"\x0b\xb8")  # 3000


async def test_frames_may_be_cut_anywhere(house: House) -> None:
    said = (
        say(type="subscribe", channels=["posts"])
        + frame(PING, b"!")
        + say(type="ping", id=7)
        + frame(CLOSE, b"\x0b\xb8")
    )
    for at in range(1, len(said)):
        raw = await welcomed(house, said[:at])
        turned = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(turned.set_result, None)
        await turned
        raw.writer.write(said[at:])
        seen = await raw.frames()
        assert code(seen[-1]) == 3000
        assert (PONG, b"!") in seen
        raw.writer.close()


async def test_a_ping_in_the_midst_of_a_message_is_answered_at_once(house: House) -> None:
    text = b'{"type":"ping","id":"\xc3\xa9"}'
    raw = await welcomed(house)
    raw.writer.write(frame(TEXT, text[:22], fin=False) + frame(PING, b"between"))  # in the midst of a character
    assert await raw.frame() == (PONG, b"between")
    raw.writer.write(frame(0, text[22:]))
    assert (await raw.until("pong"))["id"] == "é"


@pytest.mark.parametrize("last", [CLOSED, CLOSED + say(type="ping", id=9), CLOSED + b"\xff" * 100])
async def test_what_was_said_before_a_close_is_answered_before_it_is(house: House, last: bytes) -> None:
    said = say(type="subscribe", channels=["posts"]) + b"".join(say(type="ping", id=n) for n in range(3))
    raw = await welcomed(house, said + frame(PING, b"!") + last)
    seen = await raw.frames()
    kinds = [json.loads(data)["type"] for opcode, data in seen if opcode == TEXT]
    assert kinds == ["subscribed", "position", "pong", "pong", "pong"]
    assert (PONG, b"!") in seen
    assert code(seen[-1]) == 3000
    raw.writer.close()
    await eventually(lambda: house.observed(ConnectionClosed, lambda o: getattr(o, "code", None) == 3000))


async def test_each_websocket_is_pinged_live_or_fed_and_who_does_not_answer_stays(house: House) -> None:
    subscribe = say(type="subscribe", channels=["posts"])
    new, live, stream = await welcomed(house), await welcomed(house, subscribe), await Raw.connect(house, STREAM)
    await live.until("position")
    await stream.reader.readuntil(b'"position"')
    pinging = asyncio.create_task(house.server._clients.ping(0.02))
    for raw in (new, live):
        for _ in range(3):
            assert await raw.frame() == (PING, b"")
    [key] = await house.insert()
    while (heard := await live.frame()) == (PING, b""):
        pass
    assert json.loads(heard[1])["changes"][0]["row"] == key
    assert b"\x89\x00" not in await stream.reader.readuntil(key.encode())
    pinging.cancel()


async def test_pongs_are_taken_wherever_they_stand_and_cost_a_client_no_parser(house: House) -> None:
    raw = await welcomed(house)
    [sink] = house.server._clients._sinks
    for pong in (frame(PONG), frame(PONG) * 3, frame(PONG, b"unasked")):
        raw.writer.write(pong)
        await raw.writer.drain()
    raw.writer.write(frame(TEXT, b'{"type":"pi', fin=False) + frame(PONG))
    await asyncio.sleep(0)
    raw.writer.write(frame(PONG))
    raw.writer.write(frame(0, b'ng","id":1}'))
    assert (await raw.until("pong"))["id"] == 1
    assert not sink.closed


@pytest.mark.parametrize(
    ("broken", "wanted"),
    [
        (frame(TEXT, b"x", masked=False), 1002),
        (frame(TEXT, b"x", reserved=4), 1002),
        (frame(3), 1002),
        (frame(0, b"x"), 1002),
        (frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"), 1002),
        (frame(PING, b"x", fin=False), 1002),
        (frame(PING, b"x" * 126), 1002),
        (b"\x81\xfe\x00\x01" + bytes(4), 1002),
        (b"\x81\xff" + b"\xff" * 8, 1002),
        (frame(CLOSE, b"\x03"), 1002),
        *((frame(CLOSE, n.to_bytes(2)), 1002) for n in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000)),
        (frame(CLOSE, b"\x03\xe8\xff"), 1007),
        (frame(TEXT, b"\xff"), 1007),
        (frame(TEXT, b"\xc3"), 1007),
        (frame(TEXT, b"\xc3", fin=False) + frame(0, b"\x28"), 1007),
        (frame(TEXT, b" ", fin=False) + frame(0, b" ", fin=False) * (1 << 16), 1009),
        (b"\x81\xff\x3f" + b"\xff" * 7 + bytes(4), 1009),
    ],
)
async def test_a_broken_frame_is_answered_by_its_close_code_which_arrives_whatever_follows(
    house: House, broken: bytes, wanted: int
) -> None:
    raw = await welcomed(house, broken + b" " * 500_000)
    assert [code(f) for f in await raw.frames()] == [wanted]
    raw.writer.close()
    reason = "too_large" if wanted == 1009 else "protocol"
    assert [o for o in house.seen if isinstance(o, ConnectionFailed)] == [ConnectionFailed("ws", reason)]
    await eventually(lambda: house.observed(ConnectionClosed, lambda o: getattr(o, "code", None) == wanted))


# Floods.


@pytest.mark.parametrize("flood", [frame(PING), frame(0, fin=False), frame(TEXT)])
async def test_however_small_the_frames_few_are_read_in_one_turn_of_the_event_loop(
    house: House, flood: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = await welcomed(house, frame(TEXT, fin=False) if flood[0] == 0 else b"")
    turn, read = 0, Counter[int]()
    loop = asyncio.get_running_loop()
    heard = Talk._on

    def on(talk: Talk, event: Event, frames: Frames) -> None:
        read[turn] += 1
        heard(talk, event, frames)

    def tick() -> None:
        nonlocal turn
        turn += 1
        if not house.seen or read.total() < 40_000:
            loop.call_soon(tick)

    monkeypatch.setattr(Talk, "_on", on)
    loop.call_soon(tick)
    raw.writer.write(flood * 40_000)
    ended = ConnectionClosed if flood == frame(TEXT) else ()
    await eventually(lambda: read.total() >= 40_000 or any(isinstance(o, ended) for o in house.seen), 30)
    # One turn may have the end of what was read before, and the beginning of what comes.
    assert max(read.values()) <= 2 * FRAMES


async def test_pings_whose_pongs_nobody_takes_do_not_pile_up(house: House) -> None:
    raw = await welcomed(house)
    raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
    count = 100_000
    raw.writer.write(b"".join(frame(PING, b"%0120d" % n) for n in range(count)))
    [connection] = house.everyone
    await eventually(lambda: connection.sink.backlog() > HIGH_WATER)
    await holds(lambda: connection.sink.backlog() < HIGH_WATER + 8192, 0.3, "pongs do not pile up")
    raw.writer.transport.resume_reading()  # type: ignore[attr-defined]
    assert {int((await raw.frame())[1]) for _ in range(count)} == set(range(count))


# Ends.


@pytest.mark.parametrize(
    "said", [HANDSHAKE + say(type="subscribe", channels=["posts"]), STREAM, LIVEZ, LIVEZ + HANDSHAKE]
)
async def test_a_client_may_vanish_or_half_close_at_any_moment(house: House, said: bytes) -> None:
    for at in (*range(0, len(said), 5), len(said)):
        for turns in range(6):
            for vanish in (True, False):
                raw = await Raw.connect(house, said[:at])
                for _ in range(turns):
                    await turn()
                if vanish:
                    raw.reset()
                else:
                    raw.writer.write_eof()
                    await asyncio.wait_for(raw.reader.read(), 10)
                    raw.writer.close()


@pytest.mark.parametrize("said", [HANDSHAKE + say(type="subscribe", channels=["posts"]), STREAM])
async def test_a_client_that_goes_while_its_subscribe_waits_leaves_nothing(house: House, said: bytes) -> None:
    look_up, asked, free = house.registry.lookup.look_up, asyncio.Event(), asyncio.Event()

    async def slow(names: Sequence[str], position: str | None) -> Any:
        asked.set()
        await free.wait()
        return await look_up(names, position)

    house.registry.lookup.look_up = slow  # type: ignore[method-assign,assignment]
    for close in (b"", frame(CLOSE, b"\x03\xe8")):
        asked.clear()
        raw = await Raw.connect(house, said)
        await asked.wait()
        if close and said is not STREAM:
            await raw.head()
            await raw.until("welcome")
            raw.writer.write(close)
            assert [code(f) for f in await raw.frames()] == [1000]  # not when the database answers
        raw.reset()
        await eventually(lambda: balanced(house))
    free.set()


async def test_a_stop_takes_leave_of_clients_in_every_state_and_no_timer_fails_later(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.web.sinks.LINGER", 0.5)
    subscribe = say(type="subscribe", channels=["posts"])
    for said in (b"", HANDSHAKE[:40], LIVEZ, HANDSHAKE + frame(3)):
        await Raw.connect(house, said)
    sockets = [await welcomed(house, said) for said in (b"", subscribe, subscribe[:9], frame(TEXT, b"{", fin=False))]
    deaf = [await Raw.connect(house, said) for said in (HANDSHAKE + subscribe, STREAM)]
    for raw in deaf:
        await raw.reader.readuntil(b'"position"')
        raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
    sinks = [c.sink for c in house.everyone]
    while sum(sink.backlog() > 0 for sink in sinks) < len(deaf):
        await house.insert(body="x" * 100_000)
        await turn()
    stopping = asyncio.create_task(house.server.stop())
    await eventually(lambda: house.server._clients.stopping)
    for raw in deaf:
        raw.writer.transport.resume_reading()  # type: ignore[attr-defined]
    async with asyncio.timeout(10):
        assert all(b'"reconnect"' in said for said in await asyncio.gather(*(raw.reader.read() for raw in deaf)))
    for raw in sockets:
        await raw.until("reconnect")
        assert [code(f) for f in await raw.frames()] == [1012]
    await asyncio.wait_for(stopping, 5)
    assert balanced(house)
    await holds(lambda: balanced(house), 0.6)  # the timers of LINGER


# Anything.

frames = st.builds(
    frame,
    st.sampled_from([0, 1, 1, 2, 3, 8, 9, 10]),
    st.binary(max_size=140) | st.sampled_from([b'{"type":"ping"}', b'{"type":"subscribe","channels":["posts"]}']),
    fin=st.booleans(),
    reserved=st.sampled_from([0, 0, 0, 1]),
    masked=st.sampled_from([True, True, True, False]),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(frames | st.binary(max_size=20), max_size=60).map(b"".join), st.integers(0, 300))
async def test_any_bytes_behind_the_handshake_give_messages_and_a_close_code(
    caplog: pytest.LogCaptureFixture, said: bytes, cut: int
) -> None:
    async with running() as house:
        raw = await welcomed(house, said[:cut])
        await turn()
        raw.writer.write(said[cut:])
        with suppress(OSError):  # after its close frame the server may have gone
            raw.writer.write_eof()
        for n, (opcode, data) in enumerate(seen := await raw.frames(), 1):
            if opcode == TEXT:
                assert "type" in json.loads(data)
            elif opcode == CLOSE:
                assert n == len(seen)
                assert 1000 <= int.from_bytes(data[:2]) < 5000
            else:
                assert opcode == PONG
        await Raw.all_gone()
        await eventually(lambda: balanced(house))
        assert not house.observed(Failed)
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == []


# What is large, to who reads slowly.

LARGE = 12 << 20  # bytes: more than both kernels take


def arriving(data: bytes) -> list[str]:
    """The keys of the rows, in order, of what an event stream got; each message is whole."""
    said = [json.loads(line[6:]) for line in data.split(b"\n")[:-1] if line.startswith(b"data: ")]
    return [change["row"] for message in said if message["type"] == "changes" for change in message["changes"]]


@pytest.mark.parametrize("ends", [False, True], ids=["goes on", "ends"])
async def test_a_large_change_comes_whole_and_in_order_to_who_reads_it_late(house: House, ends: bool) -> None:
    socket_, stream = await welcomed(house, say(type="subscribe", channels=["posts"])), await Raw.connect(house, STREAM)
    await socket_.until("subscribed")
    await stream.reader.readuntil(b'"type":"subscribed"')
    for raw in (socket_, stream):
        raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await eventually(lambda: len(house.broadcaster.hub._channels) == 1 and len(house.registry) == 2)
    written = await house.insert(body="x" * LARGE)
    if not ends:
        written += [*await house.insert(body="y"), *await house.insert(body="z")]
    sinks = [connection.sink for connection in house.everyone]
    assert all(sink.backlog() > LARGE >> 1 for sink in sinks)
    assert all(sink._socket.get_write_buffer_size() <= HIGH_WATER + PIECE for sink in sinks)  # type: ignore[attr-defined]
    stopping = asyncio.create_task(house.server.stop()) if ends else None
    for _ in range(10):
        await turn()
    for raw in (socket_, stream):
        raw.writer.transport.resume_reading()  # type: ignore[attr-defined]
    received, events = list[str](), b""
    while len(received) < len(written):
        received += [change["row"] for change in (await socket_.until("changes"))["changes"]]
    while len(arriving(events)) < len(written):
        events += await stream.reader.readline() if len(events) >= LARGE else await stream.reader.readexactly(LARGE)
    assert received == arriving(events) == written
    if stopping is None:
        await house.insert()
        await socket_.until("changes")
        assert all(sink.direct is not None for sink in sinks)
    else:
        await stopping
        assert code((await socket_.frames())[-1]) == CloseCode.RESTART
        assert (await stream.reader.read()).endswith(b"0\r\n\r\n")


async def test_who_vanishes_with_a_large_change_unread_leaves_nothing(house: House) -> None:
    raws = [await Raw.connect(house, STREAM) for _ in range(4)]
    for raw in raws:
        await raw.reader.readuntil(b'"type":"subscribed"')
        raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await house.insert(body="x" * LARGE)
    for raw in raws:
        raw.reset()
    await eventually(lambda: balanced(house))
