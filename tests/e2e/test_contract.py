"""The shape of what goes over the wire, and the metrics that dashboards rely on: docs/protocol.md, to the letter."""

import re
from datetime import datetime

import pytest

from harness.database import Database
from harness.facts import eventually
from harness.server import Server, Servers
from tests.support.clients import EventStreamClient, WebSocketClient
from tests.support.transport import Transport, now, verdict

FIELDS = ["channel", "action", "schema", "table", "id", "tx", "at", "row", "key", "data", "old"]


async def test_the_welcome_comes_first_with_the_limits(server: Server, transport: Transport) -> None:
    async with await transport.open(server, "posts") as client:
        welcome = client.messages[0]
        assert welcome["type"] == "welcome"
        assert welcome["server"] == "one"
        assert welcome["limits"]["inbound_bytes"] == 65536
        assert [m["type"] for m in client.messages[:2]] == ["welcome", "subscribed"]
        assert client.messages[1]["channels"] == ["posts"]
        assert client.messages[1]["position"]


async def test_a_change_has_every_field_and_no_other_name(
    database: Database, server: Server, transport: Transport
) -> None:
    async with await transport.open(server, "posts") as client:
        await database.execute("INSERT INTO posts (author_id, title) VALUES (7, 'a \"quoted\" title')")
        await database.execute("UPDATE posts SET title = 'b'; DELETE FROM posts")
        inserted, updated, deleted = await client.changes(3)
        assert all(set(FIELDS) <= set(change) for change in (inserted, updated, deleted))
        assert (inserted["action"], inserted["schema"], inserted["table"]) == ("INSERT", "public", "posts")
        assert (inserted["row"], inserted["key"], inserted["old"]) == ("1", {"id": 1}, None)
        assert inserted["data"]["title"] == 'a "quoted" title'
        assert (updated["data"]["title"], updated["old"]) == ("b", inserted["data"])
        assert (deleted["data"], deleted["old"]) == (None, updated["data"])
        assert datetime.fromisoformat(inserted["at"]).utcoffset() is not None
        assert isinstance(inserted["id"], str)
        assert isinstance(inserted["tx"], str)
        assert updated["tx"] == deleted["tx"] != inserted["tx"]


async def test_both_transports_carry_the_same_bytes(database: Database, server: Server) -> None:
    async with (
        await Transport("websocket").open(server, "posts") as socket,
        await Transport("events").open(server, "posts") as events,
    ):
        await database.execute("INSERT INTO posts (author_id, title) VALUES (1, E'é ☃ \\u2028 \\n \\r \\t \\\\')")
        await verdict(database, socket, events)

        def changes(raw: list[str]) -> list[str]:
            return [text for text in raw if text.startswith('{"type":"changes"')]

        assert changes(socket.raw) == changes(events.raw)
        assert len(changes(events.raw)) == 1


async def test_an_event_stream_has_the_headers_a_retry_and_a_heartbeat_of_positions(server: Server) -> None:
    async with EventStreamClient(server.url, "posts") as client:
        await client.until(lambda: len([m for m in client.messages if m["type"] == "position"]) >= 2)
        assert client.headers["content-type"].startswith("text/event-stream")
        assert "no-" in client.headers["cache-control"]
        assert client.headers.get("x-accel-buffering") == "no"
        assert client.retry is not None
        assert 0 < client.retry < 60_000
        assert not client.stream.faults


async def test_a_position_comes_though_nothing_matches(
    database: Database, server: Server, transport: Transport
) -> None:
    async with await transport.open(server, "notifications") as client:
        await database.execute("INSERT INTO posts (author_id) VALUES (1)")
        await client.reach(await now(database))
        assert client.stream.changes() == []


async def test_rows_of_odd_types_come_as_row_to_json_gives_them_whatever_the_writers_settings(
    database: Database, servers: Servers, transport: Transport
) -> None:
    await database.execute("""
        CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE DOMAIN short AS varchar(5);
        CREATE TYPE pair AS (a int, b text);
        CREATE TABLE odd (id bigint PRIMARY KEY, j json, jb jsonb, b bytea, n numeric, f float8, d timestamptz,
          i interval, a int[], m mood, s short, p pair, day date, money money,
          twice bigint GENERATED ALWAYS AS (id * 2) STORED);
        SELECT realtime.watch('odd', routes => '{m, d}')""")
    server = await servers.start()
    async with await transport.open(server, "odd", "odd:m=happy") as client:
        await database.execute("""
            SET TimeZone = 'Asia/Tokyo'; SET bytea_output = 'escape'; SET extra_float_digits = -10;
            SET IntervalStyle = 'postgres_verbose'; SET DateStyle = 'SQL, DMY';
            INSERT INTO odd VALUES (9007199254740993, E'{"a":\\n [1,\\r\\n 2]}', '{"b": "x\\ny"}', '\\x00ff', 'NaN',
              0.1::float8 + 0.2, '2026-11-23 12:00:00.123456+00', '1 day 2 hours', '{1,2,NULL}', 'happy', 'abcde',
              '(1,"x y")', 'infinity', 1.5)""")
        await client.changes(2)
        await verdict(database, client, tables=("odd",))
        data = client.stream.changes("odd")[0]["data"]
        assert (data["d"], data["b"], data["n"]) == ("2026-11-23T12:00:00.123456+00:00", "\\x00ff", "NaN")
        assert data["id"] == 9007199254740993
        assert not client.stream.faults


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        ("inet", "10.0.0.1"), ("cidr", "10.0.0.0/8"), ("char(5)", "ab"), ("padded", "ab"), ("text", 'a "b" c'),
        ("varchar(5)", "ab"), ("uuid", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"), ("date", "2026-01-02"),
        ("timetz", "12:00+02"), ("macaddr", "08002b010203"), ("bit(3)", "101"), ("name", "n"), ("bytea", "\\x00ff"),
    ],
)  # fmt: skip
async def test_a_key_is_what_stands_in_the_row(database: Database, servers: Servers, type_: str, value: str) -> None:
    await database.execute("CREATE DOMAIN padded AS char(4)")
    await database.execute(f"CREATE TABLE keyed (k {type_} PRIMARY KEY)")
    await database.execute("SELECT realtime.watch('keyed')")
    server = await servers.start()
    async with WebSocketClient(server.url) as client:
        await client.subscribe("keyed")
        await database.execute("INSERT INTO keyed VALUES (%s)", value)
        (change,) = await client.changes(1)
        assert change["key"] == change["data"]


async def test_the_metrics_of_the_contract_are_there_and_move(database: Database, server: Server) -> None:
    async with (
        await Transport("websocket").open(server, "posts:author_id=1", "posts") as socket,
        await Transport("events").open(server, "posts"),
    ):
        await database.execute("INSERT INTO posts (author_id) VALUES (1)")
        await socket.changes(2)

        async def found() -> dict[str, float]:
            metrics = await server.metrics()
            return metrics if metrics["sobranie_message_delivery_duration_seconds_count"] >= 2 else {}

        metrics = await eventually(found)
        assert metrics['sobranie_ws_connections_active{server_id="one"}'] == 1
        assert metrics['sobranie_sse_connections_active{server_id="one"}'] == 1
        assert metrics['sobranie_messages_sent_total{channel="posts",type="changes"}'] == 2
        assert (metrics["sobranie_leader"], metrics["sobranie_database_up"]) == (1, 1)
        assert metrics["sobranie_changes_read_total"] == 1
        for name in (
            "sobranie_safety_poll_finds_total",
            "sobranie_resets_total",
            "sobranie_clients_lagging",
            "sobranie_connections_failed_total",
            "sobranie_timeouts_total",
            "sobranie_internal_errors_total",
        ):
            assert metrics.get(name, 0) == 0, name
        assert metrics["process_resident_memory_bytes"] > 0
        assert metrics["process_cpu_seconds_total"] > 0
        assert "author_id" not in (await server.get("/metrics"))[1], "a label is never a user's value"
    buckets = re.findall(
        r'sobranie_message_delivery_duration_seconds_bucket{le="([^"]+)"}', (await server.get("/metrics"))[1]
    )
    assert [float(b) for b in buckets] == [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30, float("inf")]


async def test_livez_and_readyz_say_what_they_check(server: Server) -> None:
    assert (await server.get("/livez"))[0] == 200
    status, body = await server.ready()
    assert status == 200
    assert '"status": "ready"' in body
