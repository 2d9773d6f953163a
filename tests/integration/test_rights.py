"""Who may have which channel, on a real database: granted, refused, taken away, and where that stands in the stream."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.model.claims import ANONYMOUS
from app.server import Server
from harness.database import Database, rows_of
from harness.facts import eventually
from tests.integration.guarded import Guest, serving, user

U, OWN = user("42"), "notifications:user_id=42"


@pytest.fixture
async def server(database: Database) -> AsyncIterator[Server]:
    async with serving(database, "one") as (made,):
        yield made


async def notify(database: Database, text: str, owner: int = 42) -> None:
    await database.execute("INSERT INTO notifications (user_id, body) VALUES (%s, %s)", owner, text)


async def test_posts_are_everybody_s_and_notifications_are_whose_they_are(database: Database, server: Server) -> None:
    guest = Guest(server, ANONYMOUS)
    assert (await guest.subscribe("posts", "posts:author_id=7"))["type"] == "subscribed"
    refused = await guest.subscribe(OWN)
    assert (refused["type"], refused["code"], refused["channel"]) == ("error", "forbidden", OWN)
    owner = Guest(server, U)
    assert (await owner.subscribe(OWN, snapshot=True))["type"] == "subscribed"
    assert (await owner.subscribe("notifications"))["code"] == "forbidden"
    assert (await owner.subscribe("notifications:user_id=43"))["code"] == "forbidden"
    assert (await owner.subscribe("notifications:id=1"))["code"] == "forbidden"  # a route is no right to another
    await notify(database, "yours")
    await eventually(lambda: owner.saw("yours"))
    assert not guest.saw("yours")


async def test_a_claim_is_cast_to_the_type_of_the_column(database: Database, server: Server) -> None:
    await database.execute(
        """CREATE TABLE orders (id uuid PRIMARY KEY, total numeric(8,2), at date, paid bool);
           SELECT realtime.watch('orders', routes => '{total,at,paid}');
           INSERT INTO realtime.policies VALUES ('a', 'orders:total={t}'), ('b', 'orders:at={d}'),
             ('c', 'orders:paid={p}'), ('d', 'orders:id={i}')"""
    )
    upper = "1C8A5F0E-7F6D-4B57-9D7F-0D6AD2B4D3AA"
    guest = Guest(server, user("1", t=[7, "x"], d="20261127", p=True, i=upper))
    for channel in ("total=7%2E00", "at=2026-11-27", "paid=true", f"id={upper.lower()}"):
        assert (await guest.subscribe(f"orders:{channel}"))["type"] == "subscribed", channel
    for channel in ("total=8%2E00", "at=2026-11-28", "paid=false"):
        assert (await guest.subscribe(f"orders:{channel}"))["code"] == "forbidden", channel


async def test_a_right_that_a_backend_granted_a_moment_ago_holds(database: Database, server: Server) -> None:
    guest = Guest(server, U)
    assert (await guest.subscribe("notifications"))["code"] == "forbidden"
    async with await database.connect() as connection:
        await rows_of(connection, "INSERT INTO realtime.policies VALUES ('all', 'notifications')")
    assert (await guest.subscribe("notifications"))["type"] == "subscribed"


async def test_a_channel_without_its_rows(database: Database, server: Server) -> None:
    await database.execute("UPDATE realtime.policies SET may = '{subscribe}' WHERE channel = 'posts'")
    guest = Guest(server)
    refused = await guest.subscribe("posts", snapshot=True)
    assert (refused["code"], refused["message"]) == ("forbidden", "no right to snapshot of 'posts'")
    assert (await guest.subscribe("posts"))["type"] == "subscribed"


@pytest.mark.parametrize("by", ["policy", "sub", "jti", "issued_before"])
async def test_a_right_that_is_taken_ends_the_channel_and_the_others_go_on(
    database: Database, server: Server, by: str
) -> None:
    owner, other = Guest(server, user("42", jti="j", iat=1000)), Guest(server, user("43", jti="k", iat=3000))
    await owner.subscribe("posts", OWN)
    await other.subscribe("posts", "notifications:user_id=43")
    take = {
        "policy": "DELETE FROM realtime.policies WHERE channel LIKE 'notifications%'",
        "sub": "INSERT INTO realtime.revocations (sub, until) VALUES ('42', 'infinity')",
        "jti": "INSERT INTO realtime.revocations (jti, until) VALUES ('j', 'infinity')",
        "issued_before": "INSERT INTO realtime.revocations VALUES (NULL, NULL, to_timestamp(2000), 'infinity')",
    }[by]
    await database.execute(
        f"{take}; INSERT INTO notifications (user_id, body) VALUES (42, 'secret'), (43, 'other');"
        "INSERT INTO posts (author_id, title) VALUES (1, 'open')"
    )
    await eventually(lambda: owner.lost(OWN) and owner.lost("posts") is (by != "policy"))
    await eventually(lambda: other.saw("open") and owner.saw("open") is (by == "policy"))
    assert not owner.saw("secret")
    assert other.saw("other") is (by != "policy")
    await eventually(lambda: owner.live and other.live)
    assert (await owner.subscribe(OWN))["code"] == "forbidden"


async def test_who_is_not_concerned_by_a_revocation_stays_live(database: Database, server: Server) -> None:
    owner, other = Guest(server, U), Guest(server, user("43"))
    await owner.subscribe(OWN)
    await other.subscribe("posts")
    fell: list[object] = []
    behind = other.connection.fall_behind
    other.connection.registry.observe = fell.append
    await database.execute("INSERT INTO realtime.revocations (sub, until) VALUES ('42', 'infinity')")
    await eventually(lambda: owner.lost(OWN))
    assert behind is not None
    assert other.live


async def test_a_revocation_that_is_over_revokes_nobody(database: Database, server: Server) -> None:
    await database.execute("INSERT INTO realtime.revocations (sub, until) VALUES ('42', now())")
    assert (await Guest(server, U).subscribe(OWN))["type"] == "subscribed"


async def test_a_transaction_too_large_to_hold_takes_a_right_with_all_its_rows(
    database: Database, server: Server
) -> None:
    owner, keeper = Guest(server, U), Guest(server, user("boss"))
    await database.execute("INSERT INTO realtime.policies VALUES ('all', 'notifications', NULL, '{\"sub\": \"boss\"}')")
    assert (await keeper.subscribe("notifications"))["type"] == "subscribed"
    await owner.subscribe(OWN)
    await eventually(lambda: owner.live and keeper.live)
    await database.execute(
        """INSERT INTO notifications (user_id, body) SELECT 42, 'secret' FROM generate_series(1, 12000);
           INSERT INTO realtime.revocations (sub, until) VALUES ('42', 'infinity');
           INSERT INTO notifications (user_id, body) VALUES (42, 'secret')"""
    )
    await eventually(lambda: owner.lost(OWN), 30)
    await eventually(lambda: keeper.live and keeper.stream.count() == 12001, 60, "the keeper has all of it")
    assert not owner.saw("secret")


async def test_while_the_rules_can_t_be_read_nothing_is_sent_and_nobody_is_let_in(
    database: Database, server: Server
) -> None:
    owner = Guest(server, U)
    await owner.subscribe(OWN)
    await eventually(lambda: owner.live)
    async with await database.connect(autocommit=False) as locker:
        await locker.execute("LOCK TABLE realtime.policies IN ACCESS EXCLUSIVE MODE")
        await database.execute(
            "SELECT realtime.rights_changed(); INSERT INTO notifications (user_id, body) VALUES (42, 'x')"
        )
        await eventually(lambda: not owner.live)
        asking = asyncio.create_task(Guest(server, U).subscribe(OWN))
        here = server.broadcaster.point
        await notify(database, "later")
        await eventually(lambda: server.broadcaster.point is not here, 10, "the server itself goes on")
        assert not owner.saw('"x"')
        assert not asking.done()
        await locker.rollback()
    assert (await asking)["type"] == "subscribed"
    await eventually(lambda: owner.saw('"x"') and owner.saw("later") and owner.live, 20)


async def test_a_refreshed_identity_is_judged_anew_where_the_connection_is(database: Database, server: Server) -> None:
    guest = Guest(server, user("42", org=7))
    await database.execute("INSERT INTO realtime.policies VALUES ('org', 'notifications', NULL, '{\"org\": 7}')")
    await guest.subscribe("notifications", OWN)
    guest.connection.become(user("42"))
    await eventually(lambda: guest.lost("notifications") and guest.live)
    await notify(database, "mine")
    await notify(database, "another's", 43)
    await eventually(lambda: guest.saw("mine"))
    assert not guest.saw("another's")


async def test_the_database_s_own_function_allows_refuses_or_has_no_opinion(database: Database, server: Server) -> None:
    await database.execute(
        """CREATE TABLE friends (a text, channel text, ok bool);
           CREATE FUNCTION realtime.may_subscribe(channel text, claims jsonb) RETURNS bool LANGUAGE sql STABLE
             SECURITY DEFINER AS $$SELECT f.ok FROM public.friends f
               WHERE f.a = claims->>'sub' AND f.channel = may_subscribe.channel$$;
           INSERT INTO friends VALUES ('42', 'notifications', true), ('42', 'posts', false);
           SELECT realtime.rights_changed()"""
    )
    guest, other = Guest(server, U), Guest(server, user("43"))
    assert (await guest.subscribe("notifications", OWN))["type"] == "subscribed"
    assert (await guest.subscribe("posts"))["code"] == "forbidden"
    assert (await other.subscribe("posts"))["type"] == "subscribed"
    assert (await other.subscribe("notifications"))["code"] == "forbidden"
    await database.execute("INSERT INTO friends VALUES ('43', 'notifications', true)")
    assert (await other.subscribe("notifications"))["type"] == "subscribed"  # a no is asked again
    await database.execute("UPDATE friends SET ok = false; SELECT realtime.rights_changed()")
    await eventually(lambda: guest.lost("notifications") and other.lost("notifications"))


@pytest.mark.parametrize(
    "body",
    ["SELECT 1/0 = 1", "SELECT pg_sleep(9) IS NULL", "INSERT INTO public.posts (author_id) VALUES (1) RETURNING true"],
)
async def test_where_it_fails_or_is_slow_or_writes_nobody_is_let_in(
    database: Database, server: Server, body: str
) -> None:
    await database.execute(
        f"""CREATE FUNCTION realtime.may_subscribe(channel text, claims jsonb) RETURNS bool LANGUAGE sql VOLATILE
              AS $$ {body} $$; SELECT realtime.rights_changed()"""
    )
    await server.broadcaster.refresh()
    refused = await Guest(server).subscribe("posts")
    assert (refused["code"], refused["channel"]) == ("unavailable", "posts")
    assert await database.value("SELECT count(*) FROM posts") == 0
