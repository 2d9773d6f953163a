"""The hub and the ring: audiences, forms and order in one batch; what memory serves, and what it must not."""

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
from app.stream.history import History
from app.stream.stretch import UNIT_BYTES, Stretch

TABLE = Table(1, 7, "public", "t", ("id",), (("a",), ("b",)), ("id", "a", "b"), ("int",) * 3, "nnn", 9)
AT = 1_767_225_600_000_000
BEFORE, AFTER = Point(Snapshot(100), "before"), Point(Snapshot(200), "after")
Row = tuple[int, int | None, int]


def change(number: int, op: str, new: Row | None = None, old: Row | None = None) -> Change:
    def data(row: Row | None) -> bytes | None:
        return json.dumps(dict(zip("iab", row, strict=True))).encode() if row is not None else None

    def values(row: Row | None) -> tuple[str | None, ...] | None:
        return tuple(str(v) if v is not None else None for v in row) if row is not None else None

    return Change(number, 1, 150, TABLE, op, 1, None, AT, values(new), values(old), data(new), data(old))


def batch(
    *changes: Change, schema: list[Table] | None = None, held: bool = True, xid: int = 150, xmax: int = 200
) -> Batch:
    held_ = [Transaction(xid, 1, list(changes))] if held else None
    return Batch(Snapshot(100), Snapshot(xmax), xmax - 1, 1, held_, schema or [], 100, time.monotonic())


class Out:
    direct = None


class Member:
    transport: Transport = "ws"

    def __init__(self, hub: Hub, *names: str) -> None:
        self.got: list[wire.Message] = []
        self.behind: list[Point] = []
        self.sink = Out()
        for name in names:
            _, _, pair = name.partition(":")
            column, _, value = pair.partition("=")
            hub.acquire(TABLE.relid, name, (column,) if pair else (), (value,) if pair else ()).join(self)

    def deliver(self, messages: Sequence[wire.Message], data: bytes, sent: int, before: Point, after: Point) -> bool:
        self.got += messages
        return True

    def fall_behind(self, point: Point) -> None:
        self.behind.append(point)

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


def stretch(xid: int, *changes: Change, schema: Sequence[Table] = ()) -> Stretch:
    held = [Transaction(xid, xid, list(changes), list(schema))]
    return Stretch(Snapshot(xid), Snapshot(xid + 1), held, sum(c.size for c in changes))


def xids(found: Stretch) -> list[int]:
    return [t.xid for t in found.transactions or ()]


def test_the_ring_serves_what_it_reaches_back_to_and_forgets_the_oldest() -> None:
    ring = History(Snapshot(100), 1_600)
    for n in range(1, 5):
        ring.append(stretch(100 + n, change(n, "I", (n, 1, 1))))
    assert ring.size <= 1_600
    assert ring.after(Snapshot(100)) is None
    found = ring.after(ring.floor)
    assert found is not None
    assert xids(found) == [103]
    found = ring.after(Snapshot(105, frozenset({103})))
    assert found is None or xids(found) == [103]


def test_what_left_the_log_leaves_the_ring_whichever_batch_it_is_in_and_however_late_that_comes() -> None:
    ring = History(Snapshot(100), 10_000)
    ring.append(Stretch(Snapshot(100), Snapshot(103, frozenset({101})), [Transaction(102, 1, [])], 1_000))
    ring.append(Stretch(Snapshot(103, frozenset({101})), Snapshot(103), [Transaction(101, 2, [])], 1_000))
    ring.append(Stretch(Snapshot(103), Snapshot(104), [Transaction(103, 3, [])], 1_000))
    ring.forget(Snapshot(103, frozenset({101})))
    assert [xids(s) for s in ring.stretches] == [[101], [103]]
    ring.forget(Snapshot(103))
    assert [xids(s) for s in ring.stretches] == [[103]]
    assert ring.size == ring.stretches[0].size
    assert ring.floor == Snapshot(103)
    late = Stretch(Snapshot(100), Snapshot(104), [Transaction(101, 4, [])], 1_000)  # read before it went
    ring.append(late)
    assert (list(ring.stretches), ring.size, ring.floor) == ([], 0, Snapshot(104))


def test_many_small_batches_are_few_stretches_and_serve_the_same() -> None:
    ring = History(Snapshot(100), 1 << 20)
    for n in range(1, 1001):
        ring.append(stretch(100 + n, change(n, "I", (n, 1, 1))))
    assert len(ring.stretches) < 10 + ring.size / (UNIT_BYTES / 4)
    assert ring.size == sum(s.size for s in ring.stretches)
    assert all(s.size <= UNIT_BYTES for s in ring.stretches)
    position, got = Snapshot(500, frozenset({333})), list[int]()
    while found := ring.after(position):
        got += [xid for xid in xids(found) if not position.sees(xid)]
        position = position.union(found.upto)
    assert got == [333, *range(500, 1101)]


def test_a_large_batch_is_cut_where_somebody_is_fed_from_it_and_serves_the_same() -> None:
    ring = History(Snapshot(100), 10 << 20)
    ring.append(stretch(101, change(0, "I", (0, 1, 1))))
    changes = [replace(change(n, "I", (n, 1, 1)), xid=101 + n) for n in range(1, 1001)]
    many = [Transaction(c.xid, c.number, [c]) for c in changes]
    ring.append(Stretch(Snapshot(102), Snapshot(1102), many, sum(c.size for c in changes)))
    ring.append(stretch(1102, change(1001, "I", (1001, 1, 1))))
    assert len(ring.stretches) == 3
    position, got, sizes = Snapshot(600, frozenset({333})), list[int](), list[int]()
    while found := ring.after(position):
        got += [xid for xid in xids(found) if not position.sees(xid)]
        sizes.append(found.size)
        position = position.union(found.upto)
    assert got == [333, *range(600, 1103)]
    assert max(sizes) <= UNIT_BYTES
    assert ring.size == sum(s.size for s in ring.stretches)


def test_what_is_cut_weighs_what_its_pieces_do() -> None:
    ring = History(Snapshot(100), 10 << 20)
    changes = [replace(change(n, "I", (n, 1, 1)), xid=99 + n) for n in range(1, 301)]
    many = [Transaction(c.xid, c.number, [c]) for c in changes]
    ring.append(Stretch(Snapshot(100), Snapshot(400), many, 1 << 20))  # more than it is
    assert ring.after(Snapshot(100)) is not None
    assert ring.size == sum(s.size for s in ring.stretches) == sum(c.size for c in changes)


def test_bulk_is_never_served_from_memory_and_a_changed_schema_is_a_unit_of_its_own() -> None:
    ring = History(Snapshot(100), 10_000)
    ring.append(stretch(101, change(1, "I", (1, 1, 1))))
    ring.append(stretch(102, schema=[TABLE]))
    ring.append(replace(stretch(103), transactions=None))
    units = []
    position = Snapshot(100)
    while found := ring.after(position):
        units.append(xids(found))
        position = position.union(found.upto)
    assert units == [[101], [102]]
    assert position == Snapshot(103)
