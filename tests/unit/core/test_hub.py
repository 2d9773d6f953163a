"""The hub: audiences, forms and order in one batch."""

import json
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest

from app.core import wire
from app.core.audience import Point
from app.core.hub import Hub
from app.model.change import Batch, Change, Table, Transaction
from app.model.observations import Transport
from app.model.position import Snapshot
from app.model.rights import RightsChange
from tests.unit.changes import TABLE, change

BEFORE, AFTER = Point(Snapshot(100), "before"), Point(Snapshot(200), "after")


def batch(
    *changes: Change, schema: list[Table] | None = None, held: bool = True, xid: int = 150, xmax: int = 200
) -> Batch:
    held_ = [Transaction(xid, 1, list(changes))] if held else None
    return Batch(Snapshot(100), Snapshot(xmax), xmax - 1, 1, held_, schema or [], 100, time.monotonic())


class Out:
    direct = None


class Member:
    transport: Transport = "ws"
    revoked = False

    def __init__(self, hub: Hub, *names: str) -> None:
        self.got: list[wire.Message] = []
        self.behind: list[Point] = []
        self.sink = Out()
        for name in names:
            _, _, pair = name.partition(":")
            column, _, value = pair.partition("=")
            hub.acquire(TABLE.relid, name, (column,) if pair else (), (value,) if pair else ()).join(self)

    def deliver(self, messages: Sequence[wire.Message], data: bytes, sent: int, before: Point) -> bool:
        self.got += messages
        return True

    def fall_behind(self, point: Point) -> None:
        self.behind.append(point)

    def concerned(self, change: RightsChange) -> bool:
        return self.revoked

    @property
    def told(self) -> list[tuple[str, str]]:
        changes = [c for m in self.got for c in json.loads(m.json)["changes"]]
        return [(c["channel"], c["action"]) for c in changes]


def test_a_row_that_moves_leaves_before_it_enters_whatever_came_before() -> None:
    hub = Hub()
    member = Member(hub, "t:a=1", "t:a=2")
    hub.fan_out(batch(change(1, "I", (5, 2, 0)), change(2, "U", (6, 2, 0), (6, 1, 0))), BEFORE, AFTER)
    assert member.told == [("t:a=2", "INSERT"), ("t:a=1", "DELETE"), ("t:a=2", "INSERT")]


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (change(1, "I", (5, 1, 3)), {"t": "INSERT", "t:id=5": "INSERT", "t:a=1": "INSERT", "t:b=3": "INSERT"}),
        (change(1, "D", None, (5, 1, 3)), {"t": "DELETE", "t:id=5": "DELETE", "t:a=1": "DELETE", "t:b=3": "DELETE"}),
        (change(1, "U", (5, 2, 3), (5, 1, 3)),
         {"t": "UPDATE", "t:id=5": "UPDATE", "t:a=1": "DELETE", "t:a=2": "INSERT", "t:b=3": "UPDATE"}),
        (change(1, "U", (6, 1, 3), (5, 1, 3)),
         {"t": "UPDATE", "t:id=5": "DELETE", "t:id=6": "INSERT", "t:a=1": "UPDATE", "t:b=3": "UPDATE"}),
        (change(1, "U", (5, 1, 3), (5, None, 3)),
         {"t": "UPDATE", "t:id=5": "UPDATE", "t:a=1": "INSERT", "t:b=3": "UPDATE"}),
        (change(1, "T"), dict.fromkeys(["t", "t:id=5", "t:id=6", "t:a=1", "t:a=2", "t:b=3"], "TRUNCATE")),
    ],
)  # fmt: skip
def test_each_channel_sees_its_own_form(event: Change, told: dict[str, str]) -> None:
    hub = Hub()
    members = {name: Member(hub, name) for name in ("t", "t:id=5", "t:id=6", "t:a=1", "t:a=2", "t:b=3")}
    hub.fan_out(batch(event), BEFORE, AFTER)
    assert {name: m.told[0][1] for name, m in members.items() if m.got} == told


def test_a_route_never_sees_another_routes_values() -> None:
    hub = Hub()
    old, new = Member(hub, "t:a=1"), Member(hub, "t:a=2")
    hub.fan_out(batch(change(1, "U", (5, 2, 77), (5, 1, 66))), BEFORE, AFTER)
    assert b"77" not in old.got[0].json
    assert b"66" not in new.got[0].json


def test_one_audience_gets_the_same_messages_encoded_once() -> None:
    hub = Hub()
    a, b, c = Member(hub, "t", "t:a=1"), Member(hub, "t", "t:a=1"), Member(hub, "t")
    deliveries = hub.fan_out(batch(change(1, "I", (5, 1, 0))), BEFORE, AFTER)
    assert a.got[0] is b.got[0]
    assert c.got[0] is not a.got[0]
    assert sorted(d.members["ws"] for d in deliveries) == [1, 2]


def test_who_gets_much_falls_behind_before_the_batch_and_a_single_large_change_goes_alone() -> None:
    hub = Hub(limit=600)
    much, little = Member(hub, "t"), Member(hub, "t:a=2")
    hub.fan_out(batch(*(change(n, "I", (n, 1, 0)) for n in range(9)), change(9, "I", (9, 2, 0))), BEFORE, AFTER)
    assert (much.behind, much.got) == ([BEFORE], [])
    assert (little.behind, len(little.told)) == ([], 1)
    hub = Hub(limit=10)
    alone = Member(hub, "t")
    hub.fan_out(batch(change(1, "I", (1, 1, 1))), BEFORE, AFTER)
    assert (alone.behind, len(alone.told)) == ([], 1)


def test_schema_and_bulk_put_members_aside_before_the_batch() -> None:
    hub = Hub()
    member = Member(hub, "t")
    hub.fan_out(batch(schema=[TABLE]), BEFORE, AFTER)
    hub.fan_out(batch(held=False), BEFORE, AFTER)
    assert member.behind == [BEFORE, BEFORE]


def test_a_bulk_puts_only_those_aside_who_have_a_channel_in_its_tables() -> None:
    hub = Hub()
    routed, other = Member(hub, "t:a=1"), Member(hub)
    hub.acquire(TABLE.relid + 1, "u").join(other)
    bulk = batch(held=False)
    bulk.touched = frozenset({TABLE.relid, TABLE.relid + 2})
    hub.fan_out(bulk, BEFORE, AFTER)
    assert (routed.behind, other.behind) == ([BEFORE], [])


def test_the_last_user_takes_the_channel_with_it() -> None:
    hub = Hub()
    held = [hub.acquire(TABLE.relid, name, route, values) for name, route, values in
            [("t", (), ()), ("t", (), ()), ("t:a=1", ("a",), ("1",)), ("t:a=2", ("a",), ("2",))]]  # fmt: skip
    assert held[0] is held[1]
    for channel in held:
        assert hub._channels
        hub.release(channel)
    assert not hub._channels
    assert not hub._topics


def test_whom_a_change_of_rights_concerns_is_set_aside_before_the_batch_and_nobody_else() -> None:
    hub = Hub()
    one, other = Member(hub, "t"), Member(hub, "t")
    one.revoked = True
    hub.fan_out(replace(batch(change(1, "I", (5, 2, 0))), rights=RightsChange()), BEFORE, AFTER)
    assert one.behind == [BEFORE]
    assert not other.behind
