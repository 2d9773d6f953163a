"""Who may see what, as rows: a policy that can't be meant is refused, and each change of rights is an event P."""

import json
import random
from typing import Any

import psycopg
import pytest

from app.core.claims import contains
from app.core.rights import Policy, Rules
from harness.database import Database, rows_of
from tests.sql.log import Event, events, top

SHIPPED = [("notifications for whom they are", "notifications:user_id={sub}"), ("posts for everybody", "posts")]
ORDERS = """
  CREATE TABLE orders (id uuid PRIMARY KEY, tenant_id bigint, status text, total numeric);
  CREATE SCHEMA "sa.les"; CREATE TABLE "sa.les"."a:b" (id int PRIMARY KEY, "x,y" text);
  SELECT realtime.watch('orders', routes => '{"tenant_id,status",total}');
  SELECT realtime.watch('"sa.les"."a:b"', routes => '{x%2Cy}')"""


async def rights(database: Database, since: int) -> list[Event]:
    return await events(database, since, ops="P")


async def test_posts_are_everybody_s_and_notifications_are_whose_they_are(database: Database) -> None:
    assert await database.execute("SELECT name, channel FROM realtime.policies ORDER BY name") == SHIPPED


@pytest.mark.parametrize(
    "channel",
    [
        "posts", "posts:author_id=7", "posts:id=*", "notifications:user_id={sub}", "orders:tenant_id={tenants},status=*",
        "orders:tenant_id={org.id},status=open%2Cnow", "orders:tenant_id=*,status=", "orders:total=7%2E5", "orders:total=*",
        "orders:id={https%3A%2F%2Facme%2Etest%2Fid}", "orders:id=1c8a5f0e-7f6d-4b57-9d7f-0d6ad2b4d3aa",
        "sa%2Eles.a%3Ab", "sa%2Eles.a%3Ab:x%2Cy={sub}", "{realtime.subscribe}", "{realtime.publish}", "room/lobby",
        "room/team-{team}-*", "room/{sub}", "room/*/x", "room/{team}/{sub}", "room/a%2Fb", "room/ä",
    ],
)  # fmt: skip
async def test_a_policy_that_can_be_meant_is_taken(database: Database, channel: str) -> None:
    await database.execute(ORDERS)
    await database.execute("INSERT INTO realtime.policies VALUES ('mine', %s)", channel)
    assert not Rules([Policy("mine", channel)]).unreadable


@pytest.mark.parametrize(
    ("channel", "why"),
    [
        ("ordrs", "no table 'ordrs' is on the air; on the air are notifications, orders, posts, sa%2Eles.a%3Ab"),
        ("{table}", "no table '{table}' is on the air"),
        ("public.posts", "no table 'public.posts' is on the air"),
        ("orders:status=*,tenant_id=*", "no route 'status,tenant_id'; it has 'id', 'tenant_id,status', 'total'"),
        ("orders:tenant_id", "no route 'tenant_id'"),
        ("orders:tenant_id={t}", "no route 'tenant_id'"),
        ("orders:", "no route ''"),
        ("orders:total", "after : comes column=value"),
        ("orders:total=7%2E50", "write '7%2E5' for '7%2E50'"),
        ("orders:total=7.5", "'7.5' is no value"),
        ("orders:total=a", "invalid input syntax for type numeric"),
        ("posts:author_id=a{sub}", "'a{sub}' is no value"),
        ("posts:author_id={}", "'{}' is no value"),
        ("posts:author_id={a..b}", "'{a..b}' is no value"),
        ("posts:author_id={{sub}}", "is no value"),
        ("posts:author_id=**", "is no value"),
        ("posts:author_id=7=8", "is no value"),
        ("posts:author_id=%zz", "is no value"),
        ("posts:id=1:2", "is no value"),
        ("", "it has 1 to 2048 characters"),
        ("room/", "a segment of the room's name is empty"),
        ("room/a//b", "a segment of the room's name is empty"),
        ("room/a:b", "'a:b' is no segment"),
        ("room/{a", "is no segment"),
        ("room/{a}-{b}", "two claims in one segment"),
        ("room/*-*", "a segment has one *"),
        ("room/{a}*", "a claim and a * that touch"),
    ],
)
async def test_one_that_can_t_is_refused_and_says_what_mends_it(database: Database, channel: str, why: str) -> None:
    await database.execute(ORDERS)
    with pytest.raises(psycopg.errors.InvalidParameterValue) as refused:
        await database.execute("INSERT INTO realtime.policies VALUES ('mine', %s)", channel)
    assert why in str(refused.value)
    if "can't be told apart" in why or "is no segment" in why or "is no value" in why:
        assert Rules([Policy("mine", channel)]).unreadable


@pytest.mark.parametrize(
    ("column", "value", "why"),
    [
        ("roles", "{}", "write null for anybody"),
        ("roles", "{staff,*}", "alone for any token"),
        ("roles", "{NULL}", "names of roles"),
        ("claims", "[]", "claims is a JSON object"),
        ("may", "{}", "may is one or more of"),
        ("may", "{read}", "may is one or more of subscribe, snapshot, publish, presence"),
    ],
)
async def test_so_is_what_else_is_wrong_with_it(database: Database, column: str, value: str, why: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue) as refused:
        await database.execute(f"UPDATE realtime.policies SET {column} = '{value}'")
    assert why in str(refused.value)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO realtime.policies VALUES ('a', 'posts'), ('b', 'posts')",
        "UPDATE realtime.policies SET roles = '{staff}'",
        "DELETE FROM realtime.policies",
        "TRUNCATE realtime.policies",
        "SELECT realtime.rights_changed()",
        "INSERT INTO realtime.revocations (jti, until) SELECT g::text, now() + '1h' FROM generate_series(1, 101) g",
        "SET session_replication_role = replica; DELETE FROM realtime.policies",
    ],
)
async def test_where_anybody_s_rights_may_have_changed_an_event_says_so(database: Database, statement: str) -> None:
    since = await top(database)
    await database.execute(statement)
    (event,) = await rights(database, since)
    assert (event.gen, event.op, event.new_vals, event.new) == (0, "P", None, None)


async def test_a_revocation_is_named_by_its_event(database: Database) -> None:
    since = await top(database)
    await database.execute(
        """INSERT INTO realtime.revocations (sub, jti, issued_before, until)
           VALUES ('42', NULL, 'epoch'::timestamptz + '100.5 s', 'infinity'), (NULL, 'j', NULL, 'infinity')"""
    )
    assert [e.new_vals for e in await rights(database, since)] == [["42", None, "100.500000"], [None, "j", None]]
    since = await top(database)
    await database.execute("UPDATE realtime.revocations SET until = now()")
    assert [e.new_vals for e in await rights(database, since)] == [None]


async def test_what_takes_nothing_from_anybody_leaves_no_event(database: Database) -> None:
    await database.execute(
        "INSERT INTO realtime.revocations (sub, until) VALUES ('1', now() - '2 days'::interval), ('2', 'infinity')"
    )
    since = await top(database)
    await database.execute("DELETE FROM realtime.revocations WHERE sub = '2'")
    assert await rights(database, since) == []


async def test_revocations_that_ended_go_with_the_next(database: Database) -> None:
    await database.execute("INSERT INTO realtime.revocations (sub, until) VALUES ('1', now() - '2 days'::interval)")
    await database.execute("INSERT INTO realtime.revocations (sub, until) VALUES ('2', 'infinity')")
    assert await database.execute("SELECT sub FROM realtime.revocations") == [("2",)]


async def test_a_revocation_of_nothing_is_refused(database: Database) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match="revocations_of_something"):
        await database.execute("INSERT INTO realtime.revocations (until) VALUES ('infinity')")


async def test_the_event_is_taken_back_with_its_transaction(database: Database) -> None:
    since = await top(database)
    async with await database.connect(autocommit=False) as connection:
        await rows_of(connection, "DELETE FROM realtime.policies")
        await connection.rollback()
    assert await rights(database, since) == []


@pytest.mark.parametrize("role", ["nobody", "realtime_reader"])
async def test_only_the_owner_says_who_may_see_what(database: Database, role: str) -> None:
    name = f"{role}_{database.name}"
    await database.execute(f"CREATE ROLE {name}")
    if role != "nobody":
        await database.execute(f"GRANT {role} TO {name}")
    try:
        async with await database.connect() as connection:
            await rows_of(connection, f"SET SESSION AUTHORIZATION {name}")
            for attempt in (
                "INSERT INTO realtime.policies VALUES ('mine', 'posts')",
                "UPDATE realtime.policies SET roles = NULL",
                "DELETE FROM realtime.policies",
                "INSERT INTO realtime.revocations (sub, until) VALUES ('42', now())",
                "DELETE FROM realtime.revocations",
                "SELECT realtime.rights_changed()",
                "SELECT realtime.announce_rights(NULL)",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    await rows_of(connection, attempt)
            await rows_of(connection, "RESET SESSION AUTHORIZATION; SET ROLE realtime_owner")
            await rows_of(connection, "INSERT INTO realtime.policies VALUES ('mine', 'posts')")
    finally:
        await database.execute(f"DROP ROLE {name}")


async def test_claims_contain_others_exactly_as_jsonb_has_it(database: Database) -> None:
    """Over objects, which claims are."""
    dice = random.Random(12)

    def value(depth: int) -> Any:
        kind = dice.choice("snbx" if depth == 0 else "snbxooaa")
        if kind == "o":
            return {dice.choice("xyz"): value(depth - 1) for _ in range(dice.randrange(3))}
        if kind == "a":
            return [value(depth - 1) for _ in range(dice.randrange(3))]
        return {
            "s": dice.choice(["", "a", "1"]),
            "n": dice.choice([0, 1, 1.0, 2.5]),
            "b": dice.choice([True, False]),
            "x": None,
        }[kind]

    def part(whole: Any) -> Any:
        """Something that is often contained."""
        if isinstance(whole, dict):
            return {name: part(v) for name, v in whole.items() if dice.random() < 0.7}
        if isinstance(whole, list) and dice.random() < 0.9:
            return [part(v) for v in whole if dice.random() < 0.7]
        return value(1) if dice.random() < 0.1 else whole

    pairs = []
    for _ in range(4000):
        whole = {name: value(3) for name in "xyz"}
        pairs.append((whole, part(whole)))
    held, wanted = ([json.dumps(pair[n]) for pair in pairs] for n in (0, 1))
    rows = await database.execute(
        "SELECT h::jsonb @> w::jsonb FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY u(h, w, i) ORDER BY i",
        held,
        wanted,
    )
    found = [contains(json.loads(h), json.loads(w)) for h, w in zip(held, wanted, strict=True)]
    assert found == [row[0] for row in rows]
    assert 500 < sum(found) < 3900
