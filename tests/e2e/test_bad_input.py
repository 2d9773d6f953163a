"""Bad input on a running server: each has its clear error, and the connection, or at least the server, lives on."""

import asyncio
import json
import re

import pytest

from harness.database import Database
from harness.facts import eventually
from harness.server import Server
from tests.support.clients import EventStreamClient, WebSocketClient
from tests.support.stream import Message
from tests.support.transport import Transport, verdict

CHANNELS = [  # name, what the message must hold
    ("nothing", "nothing"),
    ("shop.nothing", "'shop'"),
    ("realtime.events", "'realtime'"),
    ("pg_catalog.pg_class", "pg_class"),
    ("posts:title=x", "title"),
    ("posts:nothing=x", "nothing"),
    ("posts:author_id=1,id=1", "author_id"),
    ("", ""),
    ("posts:", "posts"),
    ("posts:author_id", "="),
    ("posts:author_id=1,", "="),
    ("po sts", "po sts"),
    ("public.posts", "posts"),
    ("po%73ts", "posts"),
    ("posts:author_id=%", "%25"),
    ("posts:author_id=042", "posts:author_id=42"),
    ("posts:author_id=+42", "posts:author_id=42"),
    ("posts:author_id= 42", "posts:author_id=42"),
    ("posts:author_id=abc", "abc"),
    ("posts:author_id=", "author_id"),
    ("posts:author_id=99999999999999999999", "99999999999999999999"),
    ("posts:id=1.5", "1%2E5"),
    ("posts;DROP TABLE posts", "posts"),
    ("room/lobby", "room"),
    ("x" * 5000, "character"),
]


@pytest.mark.parametrize(("channel", "holds"), CHANNELS, ids=[name[:30] for name, _ in CHANNELS])
async def test_a_bad_channel_is_refused_by_name_on_both_transports(server: Server, channel: str, holds: str) -> None:
    async with WebSocketClient(server.url) as client:
        answer = await client.subscribe(channel)
        assert (answer["type"], answer["code"]) == ("error", "bad_channel"), answer
        assert holds in answer["message"], answer
        assert (await client.subscribe("posts"))["type"] == "subscribed", "the connection lives on"
    async with EventStreamClient(server.url, channel) as events:
        await events.until(events.ended.is_set)
        assert events.status == 400
        assert holds in events.body
        assert json.loads(events.body)["code"] == "bad_channel"


REQUESTS = [
    b"secret\r\n\r\n",
    b"GET / HTTP/9.9.9\r\n\r\n",
    b"GET /secret\x00 HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nsecret\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: secret\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nsecret: " + b"x" * 100_000 + b"\r\n\r\n",
    b"POST /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nsecret\r\n\r\n",
]


@pytest.mark.parametrize("request_", REQUESTS, ids=[str(bytes_[:40]) for bytes_ in REQUESTS])
async def test_what_is_no_http_is_refused_and_leaves_no_line_in_the_log(server: Server, request_: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request_)
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    assert re.match(rb"HTTP/1\.[01] 4\d\d ", answer), answer[:200]
    assert (await server.get("/livez"))[0] == 200
    assert "aiohttp" not in server.output()


async def test_one_bad_channel_among_good_ones_subscribes_none(database: Database, server: Server) -> None:
    async with WebSocketClient(server.url) as client:
        assert (await client.subscribe("posts", "nothing"))["code"] == "bad_channel"
        assert (await client.subscribe("posts"))["type"] == "subscribed"
        client.stream.errors.clear()
        await database.execute("INSERT INTO posts (author_id) VALUES (1)")
        await verdict(database, client)


MESSAGES = [  # text, the field that the error must name
    ("{", None),
    ("", None),
    ("[]", None),
    ("null", None),
    ('"subscribe"', None),
    ("\x00", None),
    ("[" * 50_000, None),
    ("{}", "type"),
    ('{"type":"dance","id":1}', "type"),
    ('{"type":1}', "type"),
    ('{"type":"subscribe","id":1}', "channels"),
    ('{"type":"subscribe","id":1,"channels":"posts"}', "channels"),
    ('{"type":"subscribe","id":1,"channels":[]}', "channels"),
    ('{"type":"subscribe","id":1,"channels":[1]}', "channels"),
    ('{"type":"subscribe","id":1,"channels":["posts","posts"]}', "channels"),
    ('{"type":"subscribe","id":1,"channels":["posts"],"position":7}', "position"),
    ('{"type":"subscribe","id":{},"channels":["posts"]}', "id"),
    ('{"type":"subscribe","id":true,"channels":["posts"]}', "id"),
    ('{"type":"subscribe","id":1.5,"channels":["posts"]}', "id"),
    ('{"type":"subscribe","id":1,"channels":["posts"],"snapshot":"yes"}', "snapshot"),
]


@pytest.mark.parametrize(("text", "field"), MESSAGES, ids=[text[:40] or "nothing" for text, _ in MESSAGES])
async def test_a_bad_message_is_answered_with_its_field_and_the_connection_stays(
    server: Server, text: str, field: str | None
) -> None:
    async with WebSocketClient(server.url) as client:
        await client.send(text)
        error = await client.message("error")
        assert error["code"] == "bad_request", error
        assert field is None or error.get("field") == field or field in error["message"], error
        assert (await client.subscribe("posts"))["type"] == "subscribed"


async def ask(client: WebSocketClient, message: Message) -> Message:
    return await (await client.ask(message))


async def test_subscribing_twice_and_unsubscribing_from_what_is_not_subscribed_are_errors(server: Server) -> None:
    async with WebSocketClient(server.url) as client:
        assert (await client.subscribe("posts"))["type"] == "subscribed"
        assert (await ask(client, {"type": "subscribe", "channels": ["posts"]}))["type"] == "error"
        assert (await ask(client, {"type": "unsubscribe", "channels": ["notifications"]}))["type"] == "error"
        assert (await client.unsubscribe("posts"))["type"] == "unsubscribed"
        assert (await ask(client, {"type": "ping"}))["type"] == "pong"


async def test_answers_come_in_the_order_of_the_questions_with_their_ids(server: Server) -> None:
    async with WebSocketClient(server.url) as client:
        for number, kind in enumerate(["ping", "dance", "subscribe", "ping", "unsubscribe", "ping"]):
            await client.send({"type": kind, "id": f"q{number}", "channels": ["posts"]})
            if kind == "subscribe":
                client.stream.asking(["posts"], None)
        await client.until(lambda: [m for m in client.messages if m.get("id") == "q5"])
        answers = [(m["id"], m["type"]) for m in client.messages if "id" in m]
        assert answers == [
            ("q0", "pong"),
            ("q1", "error"),
            ("q2", "subscribed"),
            ("q3", "pong"),
            ("q4", "unsubscribed"),
            ("q5", "pong"),
        ]


async def test_a_binary_frame_is_refused_and_the_connection_stays(server: Server) -> None:
    async with WebSocketClient(server.url) as client:
        await client.send(b'{"type":"ping"}')
        assert (await client.message("error"))["code"] == "bad_request"
        assert (await client.subscribe("posts"))["type"] == "subscribed"


async def test_an_oversized_message_closes_with_1009_and_one_at_the_limit_does_not(server: Server) -> None:
    async with WebSocketClient(server.url) as client:
        frame = '{"type":"ping","id":"%s"}'
        await client.send(frame % ("x" * (65536 - len(frame) + 2)))
        assert (await client.message("pong"))["type"] == "pong"
        await client.send(frame % ("x" * 65536))
        await client.until(client.ended.is_set)
        assert client.close_code == 1009


@pytest.mark.parametrize(
    "query",
    ["", "?channels=posts", "?channel=posts&snapshot=2", "?channel=posts&channel=posts", "?channel=posts&nothing=1"],
)
async def test_a_bad_query_of_an_event_stream_is_a_final_400_that_says_why(server: Server, query: str) -> None:
    status, body = await server.get(f"/realtime/events{query}")
    assert status == 400
    assert json.loads(body)["code"] == "bad_request"
    assert json.loads(body)["message"]


async def test_what_is_not_there_is_404_and_a_plain_get_of_the_socket_is_400(server: Server) -> None:
    assert (await server.get("/nothing"))[0] == 404
    assert (await server.get("/realtime/ws"))[0] in (400, 426)


async def test_a_cut_in_the_middle_of_everything_leaves_no_connection_counted(server: Server) -> None:
    for kind in ("websocket", "events"):
        for _ in range(5):
            client = await Transport(kind).open(server, "posts")
            await client.abort()
    watcher = WebSocketClient(server.url)
    async with watcher:

        async def gone() -> bool:
            found = await server.metrics()
            return (found["sobranie_ws_connections_active"], found["sobranie_sse_connections_active"]) == (1, 0)

        await eventually(gone, 10, "only the watcher is counted", every=0.05)
