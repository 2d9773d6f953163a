"""Sockets that are no stream, and how many there may be: whoever opens sockets takes nobody's place for good."""

import asyncio
import resource
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from aiohttp import ClientSession

from app.model.errors import StartError
from app.model.observations import ConnectionFailed, Full, SocketCut
from app.model.settings import Settings
from app.web import clients, visitors
from app.web.capacity import APART, Capacity
from app.web.visitors import HEAD_BYTES
from harness.facts import eventually, holds
from tests.unit.house import House, running
from tests.unit.raw import HANDSHAKE, LIVEZ, STREAM, Raw, say

SOCKETS = 16  # that there may be, in these tests


@pytest.fixture
def few_files(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = (APART + SOCKETS, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda _: limit)


@pytest.fixture
async def house(few_files: None) -> AsyncIterator[House]:
    async with running() as house:
        yield house
        await Raw.all_gone()


async def ended(raw: Raw) -> bytes:
    async with asyncio.timeout(10):
        with suppress(ConnectionResetError):
            return await raw.reader.read()
    return b""


def cuts(house: House) -> list[str]:
    return [o.reason for o in house.seen if isinstance(o, SocketCut)]


# How many.


def test_a_part_of_the_descriptors_is_for_no_client_and_an_eighth_of_the_others_for_plain_requests() -> None:
    assert Capacity.of(1024, None) == Capacity(960, 840)
    assert Capacity.of(256, None) == Capacity(192, 168)
    assert Capacity.of(20, None) == Capacity(8, 7)
    assert Capacity.of(1024, 500) == Capacity(960, 500)


def test_more_connections_than_files_stop_the_start_with_the_limit_that_mends_it() -> None:
    with pytest.raises(StartError, match=r"SOBRANIE_CONNECTIONS=900 .* 1024 files.* 840 connections.*ulimit -n 1094"):
        Capacity.of(1024, 900)
    assert Capacity.of(1094, 900).streams == 900


async def test_sockets_that_say_nothing_do_not_keep_others_out(house: House) -> None:
    silent = [await Raw.connect(house) for _ in range(10 * SOCKETS)]
    for _ in range(5):
        raw = await Raw.connect(house, LIVEZ)
        assert b" 200 " in await raw.head()
    assert len(house.server._visitors._new) < SOCKETS
    assert set(cuts(house)) == {"crowded"}
    assert await ended(silent[0]) == b""  # who was silent for longest went first
    ws = await Raw.connect(house, HANDSHAKE)
    assert b" 101 " in await ws.head()


async def test_streams_are_never_cut_for_others(house: House) -> None:
    live = [await Raw.connect(house, HANDSHAKE + say(type="subscribe", channels=["posts"])) for _ in range(5)]
    for raw in live:
        await raw.head()
        await raw.until("subscribed")
    for _ in range(10 * SOCKETS):
        await Raw.connect(house, LIVEZ)
    [key] = await house.insert()
    for raw in live:
        assert (await raw.until("changes"))["changes"][0]["row"] == key


async def test_beyond_the_limit_a_handshake_is_a_503_and_an_event_stream_says_so_and_ends(house: House) -> None:
    most = Capacity.of(APART + SOCKETS, None).streams
    live = [await Raw.connect(house, HANDSHAKE) for _ in range(most)]
    for raw in live:
        await raw.head()
        await raw.until("welcome")
    for _ in range(3):
        raw = await Raw.connect(house, HANDSHAKE)
        head = await raw.head()
        assert b" 503 " in head
        assert b"Retry-After: " in head
        raw = await Raw.connect(house, STREAM)
        assert b" 200 " in await raw.head()  # an EventSource would give up for good on a 503
        said = await ended(raw)
        assert b"retry: " in said
        assert b'"code":"unavailable"' in said
        assert said.endswith(b"0\r\n\r\n")
    assert [o for o in house.seen if isinstance(o, Full)] == [Full(most, house_says(house))]  # one line
    assert house.observed(ConnectionFailed, lambda o: o == ConnectionFailed("ws", "full"))
    assert house.observed(ConnectionFailed, lambda o: o == ConnectionFailed("sse", "full"))
    live[0].reset()
    await eventually(lambda: house.server._clients.sockets < most)
    raw = await Raw.connect(house, HANDSHAKE)
    assert b" 101 " in await raw.head()


def house_says(house: House) -> str:
    return next(o.remedy for o in house.seen if isinstance(o, Full))


async def test_the_setting_is_the_limit(few_files: None) -> None:
    async with running(settings=Settings(port=0, connections=1)) as house:
        first = await Raw.connect(house, HANDSHAKE)
        await first.head()
        second = await Raw.connect(house, HANDSHAKE)
        assert b" 503 " in await second.head()
        await Raw.all_gone()


async def test_streams_that_wait_for_the_database_have_their_place(few_files: None) -> None:
    async with running(settings=Settings(port=0, connections=2)) as house:
        free, look_up, asked = asyncio.Event(), house.registry.lookup.look_up, 0

        async def slow(*details: object) -> object:
            nonlocal asked
            asked += 1
            await free.wait()
            return await look_up(*details)  # type: ignore[arg-type]

        house.registry.lookup.look_up = slow  # type: ignore[method-assign,assignment]
        waiting = [await Raw.connect(house, STREAM) for _ in range(2)]
        await eventually(lambda: asked == 2)
        third = await Raw.connect(house, STREAM)
        assert b'"code":"unavailable"' in await ended(third)
        free.set()
        for raw in waiting:
            assert b" 200 " in await raw.head()
        await Raw.all_gone()


async def test_who_is_turned_away_counts_until_its_socket_is_gone(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.web.sinks.LINGER", 0.3)
    refused = HANDSHAKE.replace(b"\r\n\r\n", b"\r\nOrigin: https://evil.example\r\n\r\n")
    for _ in range(3):
        raw = await Raw.connect(house, refused)
        await raw.head()
    await eventually(lambda: house.server._clients.sockets == 3)
    await eventually(lambda: house.server._clients.sockets == 0)


# How long.


async def test_who_sends_no_whole_request_in_time_is_cut_and_others_stay(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visitors, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(visitors, "SWEEP_SECONDS", 0.05)
    kept = await Raw.connect(house, LIVEZ)
    await kept.head()
    slow = [await Raw.connect(house, said) for said in (b"", b"GET /li", LIVEZ[:-2], HANDSHAKE[:60])]
    for raw in slow:
        assert await ended(raw) == b""
    assert cuts(house) == ["silent"] * 4
    await holds(lambda: len(house.server._visitors._kept) == 1, 0.6, "who keeps its connection stays")
    assert house.server._visitors._sweep is None  # with nobody to wait for there is no timer


async def test_a_head_without_end_is_cut_at_a_bound(house: House) -> None:
    for said in (b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"X-Y: z\r\n" * HEAD_BYTES, b"G" * 2 * HEAD_BYTES):
        raw = await Raw.connect(house, said)
        head = await ended(raw)
        assert head == b"" or b" 431 " in head or b" 400 " in head
    assert not house.server._visitors._busy


async def test_a_url_of_64_kb_and_its_headers_are_no_head_without_end(few_files: None) -> None:
    async with running() as house, ClientSession() as http:
        url = f"{house.url}/realtime/events?channel={'x' * 60_000}"
        async with http.get(url, headers={f"X-{n}": "y" * 4000 for n in range(10)}) as answer:
            assert answer.status == 400
            assert (await answer.json())["code"] == "bad_channel"


async def test_the_line_that_there_is_no_room_comes_once_a_minute() -> None:
    now, seen = 100.0, list[object]()
    full = clients.Clients(seen.append, 0, lambda: now)
    for _ in range(5):
        assert full.has_no_room("ws")
    now += 61
    assert full.has_no_room("sse")
    assert sum(isinstance(o, Full) for o in seen) == 2
    assert sum(isinstance(o, ConnectionFailed) for o in seen) == 6
