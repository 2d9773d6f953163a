"""Who may have which channel: examples that say the rule, and judgements held against a naive reading of the rules."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.rights import REVOKED, Policy, Rules
from app.model.channel import Address, RoomAddress, TableAddress, parse
from app.model.claims import ANONYMOUS, Identity
from app.model.rights import Action, Revocation

SHIPPED = (Policy("posts", "posts"), Policy("own", "notifications:user_id={sub}"))


def identity(sub: str = "42", **claims: object) -> Identity:
    return Identity(sub, {"sub": sub, **claims}, jti="j", issued=1000.0)


def may(channel: str, policy: str, who: Identity = ANONYMOUS, action: Action = "subscribe", **more: Any) -> bool:
    rules = Rules([Policy("p", policy, **more)], grants=True)
    verdict = rules.judge(who, parse(channel), action)
    assert verdict.allowed == rules.explain(who, parse(channel), action).allowed
    return verdict.allowed


def test_what_no_policy_allows_is_forbidden() -> None:
    assert not Rules().judge(identity(), parse("posts"), "subscribe").allowed
    assert not Rules(SHIPPED).judge(ANONYMOUS, parse("orders"), "subscribe").allowed
    assert not Rules(SHIPPED).judge(ANONYMOUS, parse("notifications:user_id=42"), "subscribe").allowed
    assert not Rules(SHIPPED).judge(identity(), parse("notifications"), "subscribe").allowed
    assert Rules(SHIPPED).judge(identity(), parse("notifications:user_id=42"), "subscribe").allowed
    assert Rules(SHIPPED).judge(ANONYMOUS, parse("posts:author_id=7"), "subscribe").allowed


@pytest.mark.parametrize(
    ("channel", "policy", "allowed"),
    [
        ("posts", "posts", True),
        ("posts:id=7", "posts", True),  # a right to the table's channel is one to its routed channels
        ("posts", "posts:id=*", False),
        ("posts:id=7", "posts:id=*", True),
        ("posts:author_id=7", "posts:id=*", False),  # a right to a key channel is none to other routes
        ("posts:id=7", "posts:id=8", False),
        ("sales.posts", "posts", False),
        ("posts:a=1,b=2", "posts:a=1,b=*", True),
        ("posts:a=1,b=2", "posts:b=*,a=1", False),
        ("posts:a=x%2Cy", "posts:a=x%2Cy", True),
        ("posts:a=*", "posts:a=%2A", True),
        ("posts:a=7", "posts:a=%2A", False),
        ("posts:a=", "posts:a=*", True),
    ],
)
def test_tables_routes_and_values(channel: str, policy: str, allowed: bool) -> None:
    assert may(channel, policy) is allowed


@pytest.mark.parametrize(
    ("claims", "allowed"),
    [
        ({"t": 7}, True), ({"t": "7"}, True), ({"t": [1, 7]}, True), ({"t": ["7", None]}, True),
        ({"t": {"x": 7}}, False),
        ({}, False), ({"t": None}, False), ({"t": ""}, False), ({"t": []}, False), ({"t": 8}, False),
        ({"t": [[7]]}, False),
        ({"t": True}, False), ({"t": 7.0}, False),
    ],
)  # fmt: skip
def test_a_claim_stands_for_a_value_and_each_element_of_an_array_for_one(claims: dict[str, Any], allowed: bool) -> None:
    assert may("orders:t=7", "orders:t={t}", identity(**claims)) is allowed


@pytest.mark.parametrize("claims", [{}, {"t": None}, {"t": ""}, {"t": []}, {"t": [""]}, {"t": {}}])
def test_a_missing_null_or_empty_claim_matches_nothing_not_even_an_empty_value(claims: dict[str, Any]) -> None:
    assert not may("orders:t=", "orders:t={t}", identity(**claims))


def test_a_claim_is_compared_in_the_spelling_of_the_column() -> None:
    rules = Rules([Policy("p", "orders:t={t},u={u}")])
    who, address = identity(t=["007", "x"], u="7.50"), parse("orders:t=7,u=7%2E5")
    assert rules.to_spell(who, address) == {("t", "007"), ("t", "x"), ("u", "7.50")}
    spelt = {("t", "007"): "7", ("u", "7.50"): "7.5"}
    assert not rules.judge(who, address, "subscribe").allowed
    assert rules.judge(who, address, "subscribe", lambda c, t: spelt.get((c, t))).allowed
    assert rules.to_spell(who, parse("orders")) == set()


def test_claims_lie_deep_and_have_names_of_any_kind() -> None:
    who = identity(org={"id": 7, "https://x.y/t": "a"})
    assert may("orders:t=7", "orders:t={org.id}", who)
    assert may("orders:t=a", "orders:t={org.https%3A%2F%2Fx%2Ey%2Ft}", who)
    assert not may("orders:t=7", "orders:t={org.id.more}", who)


@pytest.mark.parametrize(
    ("roles", "claims", "allowed"),
    [
        (None, None, True), (("*",), None, False), (("*",), {}, True), (("staff",), {}, False),
        (("staff",), {"role": "staff"}, True), (("staff", "boss"), {"role": ["x", "boss"]}, True),
        (("staff",), {"role": "Staff"}, False), (("staff",), {"role": ""}, False), (("staff",), None, False),
        ((), {}, False),
    ],
)  # fmt: skip
def test_roles(roles: tuple[str, ...] | None, claims: dict[str, Any] | None, allowed: bool) -> None:
    who = ANONYMOUS if claims is None else identity(**claims)
    assert may("posts", "posts", who, roles=roles) is allowed


def test_the_claim_of_the_role_may_be_another() -> None:
    rules = Rules([Policy("p", "posts", ("staff",))], role=("realm_access", "roles"))
    assert rules.judge(identity(realm_access={"roles": ["staff"]}), parse("posts"), "subscribe").allowed
    assert not rules.judge(identity(role="staff"), parse("posts"), "subscribe").allowed


@pytest.mark.parametrize(
    ("wanted", "claims", "allowed"),
    [
        ({"org": 7}, {"org": 7}, True), ({"org": 7}, {"org": 7.0}, True), ({"org": 1}, {"org": True}, False),
        ({"org": True}, {"org": 1}, False), ({"org": None}, {"org": None}, True), ({"org": None}, {}, False),
        ({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}}, True), ({"a": [1]}, {"a": [2, 1]}, True),
        ({"a": [1, 1]}, {"a": [1]}, True),
        ({"a": "x"}, {"a": ["x"]}, False), ({"a": []}, {"a": [1]}, True), ({"a": []}, {"a": 1}, False),
        ({"a": [[1]]}, {"a": [[1, 2]]}, True), ({"a": [{"b": 1}]}, {"a": [{"b": 1, "c": 2}]}, True),
        ({"a": {}}, {"a": []}, False),
        ({"org": float("inf")}, {"org": float("inf")}, False),
    ],
)  # fmt: skip
def test_claims_contain_others_as_jsonb_does(wanted: dict[str, Any], claims: dict[str, Any], allowed: bool) -> None:
    assert may("posts", "posts", identity(**claims), claims=wanted) is allowed


def test_what_one_may_do_is_judged_one_by_one() -> None:
    for action in ("subscribe", "snapshot", "publish", "presence"):
        assert may("posts", "posts", action=action) is (action in ("subscribe", "snapshot"))
        assert may("posts", "posts", action=action, may=("publish",)) is (action == "publish")


@pytest.mark.parametrize(
    ("room", "policy", "allowed"),
    [
        ("lobby", "room/lobby", True), ("lobby/x", "room/lobby", False), ("lobby", "room/*", True), ("a/b",
        "room/*", False),
        ("a/b", "room/*/b", True), ("team-a-1", "room/team-{t}-*", True), ("team-a-", "room/team-{t}-*", False),
        ("team-a", "room/team-{t}-*", False),
        ("team-a-b-1", "room/team-{t}-*", False),  # the room of team a-b
        ("team-c-1", "room/team-{t}-*", False), ("a", "room/{t}", True), ("c", "room/{t}", False), ("a/42",
        "room/{t}/{sub}", True),
        ("x-a", "room/*-{t}", True), ("x-y-a", "room/*-{t}", False), ("doc-1-2", "room/doc-*", True), ("",
        "room/*", False),
        ("ee", "room/e*e", False), ("eae", "room/e*e", True), ("eee", "room/e*e", True),
    ],
)  # fmt: skip
def test_rooms(room: str, policy: str, allowed: bool) -> None:
    rules = Rules([Policy("p", policy)])
    assert not rules.unreadable
    assert rules.judge(identity(t="a"), RoomAddress(room), "subscribe").allowed is allowed
    assert not rules.judge(identity(t="a"), parse("posts"), "subscribe").allowed


def test_a_claim_with_a_slash_stays_in_its_segment() -> None:
    rules = Rules([Policy("p", "room/{t}/x")])
    assert not rules.judge(identity(t="a/b"), RoomAddress("a/b/x"), "subscribe").allowed
    assert rules.judge(identity(t="a/b"), RoomAddress("a%2Fb/x"), "subscribe").allowed


def test_a_token_names_its_channels_where_it_may() -> None:
    who = identity(realtime={"subscribe": ["posts", "orders:id=7", "??", 5, "room/x"]})
    for channel, allowed in {
        "posts": True, "posts:id=3": True, "orders:id=7": True, "orders": False, "orders:id=8": False, "room/x": True,
        "room/y": False,
    }.items():  # fmt: skip
        assert may(channel, "{realtime.subscribe}", who) is allowed, channel
    assert not Rules([Policy("p", "{realtime.subscribe}")]).judge(who, parse("posts"), "subscribe").allowed
    assert not may("posts", "{realtime.subscribe}", identity())


@pytest.mark.parametrize(
    ("revocation", "hit"),
    [
        (Revocation(sub="42"), True), (Revocation(sub="43"), False), (Revocation(jti="j"), True),
        (Revocation(jti="k"), False),
        (Revocation(sub="42", jti="k"), False), (Revocation(sub="42", issued_before=1000.5), True),
        (Revocation(sub="42", issued_before=1000.0), False), (Revocation(issued_before=2000.0), True),
    ],
)  # fmt: skip
def test_a_revoked_token_has_no_right_at_all(revocation: Revocation, hit: bool) -> None:
    rules = Rules(SHIPPED, [revocation])
    verdict = rules.judge(identity(), parse("posts"), "subscribe")
    assert verdict.allowed is not hit
    assert (verdict.reasons[0].why_not == REVOKED) is hit
    assert rules.revoked(identity()) is hit
    assert rules.judge(ANONYMOUS, parse("posts"), "subscribe").allowed


def test_a_token_that_does_not_say_when_it_was_issued_is_revoked_with_the_old_ones() -> None:
    assert Rules(SHIPPED, [Revocation(issued_before=1.0)]).revoked(Identity("42"))


def test_a_policy_that_can_t_be_read_allows_nothing_and_takes_nothing() -> None:
    rules = Rules([Policy("bad", "posts:{x}"), Policy("worse", "room/{a}{b}"), Policy("good", "posts")])
    assert set(rules.unreadable) == {"bad", "worse"}
    assert len(rules) == 1
    assert rules.judge(ANONYMOUS, parse("posts"), "subscribe").allowed


def test_every_rule_says_why_it_lets_somebody_or_not() -> None:
    rules = Rules(
        [
            Policy("a", "orders"), Policy("b", "posts", ("staff",)), Policy("c", "posts:id={x}"), Policy("d",
            "posts", claims={"org": 7}),
            Policy("e", "posts", may=("publish",)), Policy("f", "posts"), Policy("g", "posts:"), Policy("h", "room/x"),
            Policy("i", "{realtime.subscribe}"), Policy("j", "posts:author_id=*"),
        ]
    )  # fmt: skip
    verdict = rules.explain(identity(), parse("posts:id=7"), "subscribe")
    assert verdict.allowed
    assert {r.policy: r.why_not for r in verdict.reasons} == {
        "a": "it is about other channels",
        "b": "the claim 'role' is none of staff",
        "c": "the claim 'x' is missing or empty",
        "d": "the claims 'org' are not as it wants them",
        "e": "it allows publish, and not subscribe",
        "f": None,
        "g": "it can't be read: after ':' comes column=value, or several with ',' between",
        "h": "it is about rooms",
        "i": "no token may grant channels",
        "j": "it is about the route author_id",
    }
    assert [r.policy for r in rules.judge(identity(), parse("posts:id=7"), "subscribe").reasons] == ["b", "d", "e", "f"]


# Against a naive reading: every policy is turned into all channels that it allows, out of a small world.

NAMES = ["a", "b"]
VALUES = ["1", "2"]
CHANNELS: list[Address] = [
    *(TableAddress("public", t) for t in NAMES),
    *(TableAddress("public", t, (c,), (v,)) for t in NAMES for c in NAMES for v in VALUES),
    *(TableAddress("public", t, ("a", "b"), (v, w)) for t in NAMES for v in VALUES for w in VALUES),
]
scalars = st.sampled_from([None, "", "1", "2", 1, 2, True])
tokens = st.none() | st.fixed_dictionaries(
    {}, optional={"x": scalars | st.lists(scalars, max_size=2), "role": st.sampled_from(["s", "t"]), "y": scalars}
)
values = st.sampled_from(["*", "{x}", "{y}", "1", "2"])


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    table, route = draw(st.sampled_from(NAMES)), draw(st.sampled_from([(), ("a",), ("b",), ("a", "b")]))
    pairs = ",".join(f"{column}={draw(values)}" for column in route)
    channel = f"{table}:{pairs}" if pairs else table
    roles = draw(st.sampled_from([None, ("*",), ("s",), ("s", "t")]))
    claims: dict[str, Any] = draw(st.sampled_from([{}, {"y": "1"}, {"y": 1}, {"x": ["1"]}]))
    return Policy(channel, channel, roles, claims, draw(st.sampled_from([("subscribe",), ("snapshot", "subscribe")])))


def naive(policy: Policy, claims: Mapping[str, Any] | None, address: Address, action: str) -> bool:
    assert isinstance(address, TableAddress)
    held = claims or {}
    if action not in policy.may or (policy.roles is not None and claims is None):
        return False
    if policy.roles is not None and "*" not in policy.roles and held.get("role") not in policy.roles:
        return False
    for name, wanted in policy.claims.items():
        has = held.get(name)
        same = isinstance(has, list) and "1" in has if wanted == ["1"] else json.dumps(has) == json.dumps(wanted)
        if not same:
            return False
    table, _, pairs = policy.channel.partition(":")
    if table != address.table:
        return False
    if not pairs:
        return True
    columns, patterns = zip(*(pair.split("=") for pair in pairs.split(",")), strict=True)
    if columns != address.route:
        return False
    return all(
        value in _values(held.get(pattern[1:-1])) if pattern[0] == "{" else pattern in ("*", value)
        for pattern, value in zip(patterns, address.values, strict=True)
    )


def _values(claim: Any) -> list[str]:
    listed = claim if isinstance(claim, list) else [claim]
    return [{True: "true"}.get(v, str(v)) if isinstance(v, bool) else str(v) for v in listed if v not in (None, "")]


@given(st.lists(policies(), max_size=4), tokens, st.sampled_from(["subscribe", "snapshot"]))
def test_judgements_are_those_of_a_naive_reading(
    made: list[Policy], claims: dict[str, Any] | None, action: Action
) -> None:
    rules = Rules(made)
    who = Identity("42", claims) if claims is not None else ANONYMOUS
    for address in CHANNELS:
        expected = any(naive(policy, claims, address, action) for policy in made)
        assert rules.judge(who, address, action).allowed is expected
        assert rules.explain(who, address, action).allowed is expected
