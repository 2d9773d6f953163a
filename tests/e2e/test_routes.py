"""Who sees what of a row that moves, and what names mean (adversarial 11 on a stream, 31)."""

from harness.database import Database
from harness.server import Server, Servers
from tests.support.clients import Client
from tests.support.transport import Transport, now, verdict

ORDERS = """
CREATE SCHEMA shop;
CREATE TABLE shop.orders (id int PRIMARY KEY DEFERRABLE, tenant_id int, status text, secret text);
SELECT realtime.watch('shop.orders', routes => '{"tenant_id,status", tenant_id}')"""


def seen(client: Client, channel: str) -> list[tuple[str, object, object]]:
    def name(row: dict[str, object] | None) -> object:
        return row and row["secret"]

    return [(c["action"], name(c["data"]), name(c["old"])) for c in client.stream.changes(channel)]


async def test_a_row_that_moves_between_tenants_shows_each_its_own_half_live_and_on_replay(
    database: Database, servers: Servers, transport: Transport
) -> None:
    await database.execute(ORDERS)
    server = await servers.start()
    start = await now(database)
    channels = ["shop.orders:tenant_id=1", "shop.orders:tenant_id=2", "shop.orders"]
    async with await transport.open(server, *channels) as client:
        await database.execute("INSERT INTO shop.orders VALUES (7, 1, 'open', 'of A')")
        await database.execute("UPDATE shop.orders SET tenant_id = 2, secret = 'of B'")
        await client.changes(5)
        await verdict(database, client, tables=("shop.orders",))
        await _check_halves(client)
    async with await transport.open(server, *channels, position=start) as replayed:
        await replayed.changes(5)
        await verdict(database, replayed, tables=("shop.orders",))
        await _check_halves(replayed)


async def _check_halves(client: Client) -> None:
    assert seen(client, "shop.orders:tenant_id=1") == [("INSERT", "of A", None), ("DELETE", None, "of A")]
    assert seen(client, "shop.orders:tenant_id=2") == [("INSERT", "of B", None)]
    assert seen(client, "shop.orders") == [("INSERT", "of A", None), ("UPDATE", "of B", "of A")]


async def test_a_client_of_one_tenant_never_receives_a_byte_of_another(database: Database, servers: Servers) -> None:
    await database.execute(ORDERS)
    server = await servers.start()
    async with (
        await Transport("websocket").open(server, "shop.orders:tenant_id=1") as one,
        await Transport("events").open(server, "shop.orders:tenant_id=1,status=open") as narrow,
    ):
        for secret, tenant in (("mine", 1), ("theirs", 2)):
            await database.execute("INSERT INTO shop.orders VALUES (%s, %s, 'open', %s)", tenant, tenant, secret)
        await database.execute("UPDATE shop.orders SET tenant_id = 2, secret = 'theirs' WHERE id = 1")
        await database.execute("UPDATE shop.orders SET tenant_id = 1, secret = 'mine' WHERE id = 2")
        await verdict(database, one, narrow, tables=("shop.orders",))
        for client in (one, narrow):
            assert [c["action"] for c in client.stream.changes()] == ["INSERT", "DELETE", "INSERT"]
            assert "theirs" not in "".join(client.raw)


async def test_two_keys_swapped_and_all_keys_moved_on_by_one_end_in_the_right_rows(
    database: Database, servers: Servers, transport: Transport
) -> None:
    await database.execute(ORDERS)
    server = await servers.start()
    await database.execute("INSERT INTO shop.orders SELECT g, 1, 'open', 's' || g FROM generate_series(1, 4) g")
    channels = ["shop.orders", "shop.orders:id=1", "shop.orders:id=2"]
    async with await transport.open(server, *channels, position=await now(database)) as client:
        await database.execute("UPDATE shop.orders SET id = 3 - id WHERE id < 3")
        await client.changes(8)
        assert seen(client, "shop.orders:id=1") == [("DELETE", None, "s1"), ("INSERT", "s2", None)]
        assert seen(client, "shop.orders:id=2") == [("DELETE", None, "s2"), ("INSERT", "s1", None)]
        await database.execute("UPDATE shop.orders SET id = id + 1")
        await client.until(lambda: len(client.stream.changes("shop.orders")) == 4 + 8)
        await verdict(database, client, tables=("shop.orders",))
        by_key = {str(i): f"s{i}" for i in range(1, 5)}  # what a plain client keeps, that knows nothing of statements
        for change in client.stream.changes("shop.orders"):
            if change["data"] is None:
                del by_key[change["row"]]
            else:
                by_key[change["row"]] = change["data"]["secret"]
        assert by_key == {"2": "s2", "3": "s1", "4": "s3", "5": "s4"}
        moved = client.stream.changes("shop.orders")[-1]
        assert moved["row"] == str(moved["key"]["id"]) == str(moved["data"]["id"])


async def test_a_client_on_several_matching_channels_gets_a_change_once_per_channel_with_one_id(
    database: Database, server: Server, transport: Transport
) -> None:
    async with await transport.open(server, "posts", "posts:author_id=1", "posts:id=1") as client:
        await database.execute("INSERT INTO posts (author_id) VALUES (1)")
        changes = await client.changes(3)
        assert len({c["channel"] for c in changes}) == 3
        assert len({c["id"] for c in changes}) == 1
        await verdict(database, client)


async def test_a_table_without_a_key_and_one_with_hostile_names_stream_exactly(
    database: Database, servers: Servers, transport: Transport
) -> None:
    await database.execute("""CREATE TABLE keyless (a int, b text); SELECT realtime.watch('keyless', routes => '{a}');
        CREATE TABLE "Ta:b.le/""%" (id int PRIMARY KEY, "co,l=umn" text);
        SELECT realtime.watch('"Ta:b.le/""%"', routes => '{"co%2Cl%3Dumn"}')""")
    server = await servers.start()
    hostile = "Ta%3Ab%2Ele%2F%22%25"
    routed = f"{hostile}:co%2Cl%3Dumn=v%2Cé v"
    async with await transport.open(server, "keyless", "keyless:a=1", hostile, routed) as client:
        await database.execute("INSERT INTO keyless VALUES (1, 'x'), (1, 'x'), (2, NULL)")
        await database.execute("""INSERT INTO "Ta:b.le/""%" VALUES (1, 'v,é v'), (2, NULL)""")
        changes = await client.changes(3 + 2 + 2 + 1)
        assert {(c["key"], c["row"]) for c in changes if c["channel"].startswith("keyless")} == {(None, None)}
        assert [c["data"]["id"] for c in client.stream.changes(routed)] == [1]
        assert client.stream.changes(hostile)[0]["table"] == 'Ta:b.le/"%'


async def test_a_key_beyond_what_a_number_of_javascript_holds_is_safe_as_row(
    database: Database, servers: Servers
) -> None:
    await database.execute("CREATE TABLE big (id bigint PRIMARY KEY); SELECT realtime.watch('big')")
    server = await servers.start()
    async with await Transport("websocket").open(server, "big:id=9223372036854775807") as client:
        await database.execute("INSERT INTO big VALUES (9223372036854775807)")
        change = (await client.changes(1))[0]
        assert (change["row"], change["key"]) == ("9223372036854775807", {"id": 9223372036854775807})
