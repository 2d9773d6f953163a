"""Event streams over a real socket, read byte by byte: the framing, what is refused for good, and what passes."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any, Protocol

import pytest
from aiohttp import ClientSession

from app.model.errors import DatabaseAway
from app.model.observations import ConnectionClosed, ConnectionFailed
from app.model.position import Snapshot
from app.model.settings import Settings
from app.stream.stretch import Stretch
from harness.facts import eventually
from tests.unit.house import House, running

Pair = tuple[str | None, dict[str, Any]]


class Get(Protocol):
    async def __call__(self, target: str, *headers: str, version: str = "1.1") -> "Raw": ...


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with running() as house:
        yield house


@pytest.fixture
async def http() -> AsyncIterator[ClientSession]:
    async with ClientSession() as session:
        yield session


class Raw:
    """An HTTP client that sees every byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def head(self) -> str:
        return (await self.reader.readuntil(b"\r\n\r\n")).decode()

    async def chunk(self) -> bytes:
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        data = await self.reader.readexactly(size)
        assert await self.reader.readexactly(2) == b"\r\n"
        return data

    async def event(self) -> Pair:
        return parse(await self.chunk())


@pytest.fixture
async def get(house: House) -> AsyncIterator[Get]:
    """Ask for a path of the server; further arguments are header lines."""
    made: list[Raw] = []

    async def get(target: str, *headers: str, version: str = "1.1") -> Raw:
        raw = Raw(*await asyncio.open_connection("127.0.0.1", house.server.port))
        made.append(raw)
        lines = [f"GET {target} HTTP/{version}", "Host: x", *headers, "", ""]
        raw.writer.write("\r\n".join(lines).encode())
        return raw

    yield get
    for raw in made:
        raw.writer.close()
        await asyncio.gather(raw.writer.wait_closed(), return_exceptions=True)


def parse(event: bytes) -> Pair:
    """The `id:` and the message of one event. Nothing else may be in it."""
    match = re.fullmatch(rb"(?:id: ([^\n]*)\n)?data: ([^\n]*)\n\n", event)
    assert match, event
    return match[1].decode() if match[1] else None, json.loads(match[2])


async def test_a_stream_begins_with_retry_and_has_an_id_exactly_where_a_position_is(house: House, get: Get) -> None:
    raw = await get("/realtime/events?channel=posts&channel=posts:author_id=7")
    head = await raw.head()
    assert head.startswith("HTTP/1.1 200")
    for line in (
        "Content-Type: text/event-stream; charset=utf-8",
        "Cache-Control: no-cache, no-transform",
        "X-Accel-Buffering: no",
    ):
        assert line in head
    assert re.fullmatch(rb"retry: \d{4}\n\n", await raw.chunk())
    await house.insert(author=7, body="\\u0000 é")
    kinds = []
    while "changes" not in kinds:
        id, message = await raw.event()
        assert id == message.get("position")
        kinds.append(message["type"])
    assert kinds == ["welcome", "subscribed", "position", "changes"]


async def test_http_1_0_gets_the_same_events_without_chunks(house: House, get: Get) -> None:
    raw = await get("/realtime/events?channel=posts", version="1.0")
    assert "chunked" not in (await raw.head()).lower()
    assert (await raw.reader.readuntil(b"\n\n")).startswith(b"retry: ")
    seen = [parse(await raw.reader.readuntil(b"\n\n"))[1]["type"] for _ in range(3)]
    assert seen == ["welcome", "subscribed", "position"]
    await house.insert()
    assert parse(await raw.reader.readuntil(b"\n\n"))[1]["type"] == "changes"


async def test_last_event_id_beats_the_position_of_the_url(house: House, get: Get) -> None:
    old = house.broadcaster.point.token
    await house.insert(body="one")
    new = house.broadcaster.point.token
    await house.insert(body="two")
    bodies = []
    for headers in ((), (f"Last-Event-ID: {new}",)):
        raw = await get(f"/realtime/events?channel=posts&position={old}", *headers)
        await raw.head()
        await raw.chunk()
        found: list[str] = []
        while "two" not in found:
            message = (await raw.event())[1]
            changes = message.get("changes", [])
            found += [change["data"]["body"] for change in changes]
        bodies.append(found)
    assert bodies == [["one", "two"], ["two"]]


@pytest.mark.parametrize("name", ["lastEventId", "lastEventID", "Last-Event-ID", "last-event-id", "evs_last_event_id"])
async def test_polyfills_put_the_last_event_id_into_the_url(house: House, get: Get, name: str) -> None:
    """It beats the position that the page began with, which the URL repeats; the header beats both."""
    old = house.broadcaster.point.token
    await house.insert(body="one")
    new = house.broadcaster.point.token
    await house.insert(body="two")
    newest = house.broadcaster.point.token
    await house.insert(body="three")
    for headers, last, wanted in (
        ((), new, ["two", "three"]),
        ((), "", ["one", "two", "three"]),
        ((f"Last-Event-ID: {newest}",), new, ["three"]),
    ):
        raw = await get(f"/realtime/events?channel=posts&position={old}&{name}={last}", *headers)
        await raw.head()
        await raw.chunk()
        found: list[str] = []
        while "three" not in found:
            found += [change["data"]["body"] for change in (await raw.event())[1].get("changes", [])]
        assert found == wanted


@pytest.mark.parametrize(
    ("query", "code", "named"),
    [
        ("", "bad_request", "channel"),
        ("channel=", "bad_channel", "channel name"),
        ("channel=nope", "bad_channel", "nope"),
        ("channel=posts:author_id=042", "bad_channel", "posts:author_id=42"),
        ("channel=posts:title=x", "bad_channel", "author_id"),
        ("channel=posts:author_id=x", "bad_channel", "bigint"),
        ("channel=room/lobby", "bad_channel", "rooms"),
        ("channel=posts&channel=posts", "bad_request", "twice"),
        ("channel=posts&snapshot=2", "bad_request", "1 or 0"),
        ("channels=posts", "bad_request", "channels"),
    ],
)
async def test_what_can_never_work_is_a_400_that_says_why(
    house: House, http: ClientSession, query: str, code: str, named: str
) -> None:
    async with http.get(f"{house.url}/realtime/events?{query}") as answer:
        assert answer.status == 400
        assert answer.content_type == "application/json"
        body = await answer.json()
    assert (body["type"], body["code"]) == ("error", code)
    assert named in body["message"]
    assert house.observed(ConnectionFailed, lambda o: o == ConnectionFailed("sse", code))
    assert len(house.registry) == 0


async def test_what_passes_is_a_stream_that_says_so_and_ends(house: House, get: Get) -> None:
    house.log.away = True
    raw = await get("/realtime/events?channel=posts")
    assert "200" in await raw.head()
    assert (await raw.chunk()).startswith(b"retry: ")
    assert (await raw.event())[1]["type"] == "welcome"
    assert (await raw.event())[1]["code"] == "unavailable"
    assert await raw.reader.read() == b"0\r\n\r\n"


async def test_a_bad_position_is_a_reset_and_the_stream_goes_on(house: House, get: Get) -> None:
    for position in ("rubbish", "p1-00000001-900-1--00000000", "a" * 5000):
        raw = await get(f"/realtime/events?channel=posts&position={position}")
        assert "200" in await raw.head()
        await raw.chunk()
        while (message := (await raw.event())[1])["type"] != "reset":
            assert message["type"] in ("welcome", "subscribed")
        assert (message["reason"], message["channels"]) == ("invalid", ["posts"])
        await house.insert()
        assert (await raw.event())[1]["type"] == "changes"


async def test_a_client_that_goes_is_let_go(house: House, get: Get) -> None:
    raw = await get("/realtime/events?channel=posts")
    await raw.head()
    await eventually(lambda: len(house.registry) == 1)
    raw.writer.transport.abort()
    await eventually(lambda: len(house.registry) == 0)
    assert house.observed(ConnectionClosed)


async def test_a_stop_tells_each_stream_and_ends_it_whole(house: House, get: Get) -> None:
    raw = await get("/realtime/events?channel=posts")
    await raw.head()
    await raw.chunk()
    stopping = asyncio.create_task(house.server.stop())
    while (message := (await raw.event())[1])["type"] != "reconnect":
        pass
    assert await raw.chunk() == b"retry: %d\n\n" % message["after_ms"]
    assert await raw.reader.read() == b"0\r\n\r\n"
    await asyncio.wait_for(stopping, 5)


async def test_the_times_to_come_back_at_are_spread(house: House, get: Get) -> None:
    retries, ends = [], []
    streams = [await get("/realtime/events?channel=posts") for _ in range(40)]
    for raw in streams:
        await raw.head()
        retries.append(int((await raw.chunk()).split()[1]))
    stopping = asyncio.create_task(house.server.stop())
    for raw in streams:
        while (message := (await raw.event())[1])["type"] != "reconnect":
            pass
        ends.append(message["after_ms"])
    await stopping
    for times, least, most in ((retries, 1000, 3000), (ends, 200, 1040)):
        assert least <= min(times) <= max(times) <= most
        assert len(set(times)) > 25
        assert max(times) - min(times) > (most - least) / 2


async def test_a_client_that_is_fed_while_the_database_is_away_hears_that_the_server_lives(
    house: House, get: Get
) -> None:
    old = house.broadcaster.point.token
    await house.insert()
    house.broadcaster.history.restart(house.broadcaster.point.snapshot)
    house.log.stretches = away  # type: ignore[method-assign]
    raw = await get(f"/realtime/events?channel=posts&position={old}")
    await raw.head()
    await raw.chunk()
    house.registry.heartbeat = 0.1
    beating = asyncio.create_task(house.registry.beat())
    kinds = [(await raw.event())[1]["type"] for _ in range(5)]
    beating.cancel()
    assert kinds == ["welcome", "subscribed", "pong", "pong", "pong"]
    del house.log.stretches
    id, message = await raw.event()
    assert (message["type"], id) == ("changes", house.broadcaster.point.token)


async def away(since: Snapshot, upto: Snapshot) -> AsyncIterator[Stretch]:
    if since != upto:
        raise DatabaseAway("gone")
    yield Stretch(since, upto, [], 0)


async def test_a_replay_waits_until_the_stream_has_begun(house: House, get: Get) -> None:
    old = house.broadcaster.point.token
    written = []
    for _ in range(30):
        written += await house.insert(body="x" * 100_000)
    raw = await get(f"/realtime/events?channel=posts&position={old}")
    await raw.head()
    await raw.chunk()
    received: list[str] = []
    while len(received) < len(written):
        changes = (await raw.event())[1].get("changes", [])
        received += [change["row"] for change in changes]
    assert received == written


async def test_as_many_channels_as_a_connection_may_have_fit_in_a_url(house: House, http: ClientSession) -> None:
    query = "&".join(f"channel=posts:id={n}" for n in range(1_000_000_000, 1_000_001_000))
    async with http.get(f"{house.url}/realtime/events?{query}") as answer:
        assert answer.status == 200


async def test_pages_of_other_origins_are_refused_for_good(house: House, http: ClientSession) -> None:
    async with http.get(
        f"{house.url}/realtime/events?channel=posts", headers={"Origin": "https://evil.example"}
    ) as answer:
        assert answer.status == 403
        assert (await answer.json())["code"] == "forbidden"
        # The page may read that it is refused, and so does not try for ever; with its cookies it may read nothing.
        assert answer.headers["Access-Control-Allow-Origin"] == "https://evil.example"
        assert "Access-Control-Allow-Credentials" not in answer.headers


async def test_pages_of_the_origins_set_may_read(http: ClientSession) -> None:
    async with running(settings=Settings(port=0, origins=("https://app.example",))) as house:
        url = f"{house.url}/realtime/events?channel=posts"
        async with http.get(url, headers={"Origin": "https://app.example"}) as answer:
            assert answer.status == 200
            assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example"


async def test_head_is_no_stream(house: House, http: ClientSession) -> None:
    async with http.head(f"{house.url}/realtime/events?channel=posts") as answer:
        assert answer.status == 405
