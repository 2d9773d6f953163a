"""What memory serves, and what it must not."""

from collections.abc import Sequence
from dataclasses import replace

from app.model.change import Change, Table, Transaction
from app.model.position import Snapshot
from app.stream.history import History
from app.stream.stretch import UNIT_BYTES, Stretch
from tests.unit.changes import TABLE, change


def stretch(xid: int, *changes: Change, schema: Sequence[Table] = ()) -> Stretch:
    held = [Transaction(xid, xid, list(changes), list(schema))]
    return Stretch(Snapshot(xid), Snapshot(xid + 1), held, sum(c.size for c in changes))


def xids(found: Stretch) -> list[int]:
    return [t.xid for t in found.transactions or ()]


def test_memory_serves_what_it_reaches_back_to_and_forgets_the_oldest() -> None:
    history = History(Snapshot(100), 1_600)
    for n in range(1, 5):
        history.append(stretch(100 + n, change(n, "I", (n, 1, 1))))
    assert history.size <= 1_600
    assert history.after(Snapshot(100)) is None
    found = history.after(history.floor)
    assert found is not None
    assert xids(found) == [103]
    found = history.after(Snapshot(105, frozenset({103})))
    assert found is None or xids(found) == [103]


def test_what_left_the_log_leaves_memory_whichever_batch_it_is_in_and_however_late_that_comes() -> None:
    history = History(Snapshot(100), 10_000)
    history.append(Stretch(Snapshot(100), Snapshot(103, frozenset({101})), [Transaction(102, 1, [])], 1_000))
    history.append(Stretch(Snapshot(103, frozenset({101})), Snapshot(103), [Transaction(101, 2, [])], 1_000))
    history.append(Stretch(Snapshot(103), Snapshot(104), [Transaction(103, 3, [])], 1_000))
    history.forget(Snapshot(103, frozenset({101})))
    assert [xids(s) for s in history.stretches] == [[101], [103]]
    history.forget(Snapshot(103))
    assert [xids(s) for s in history.stretches] == [[103]]
    assert history.size == history.stretches[0].size
    assert history.floor == Snapshot(103)
    late = Stretch(Snapshot(100), Snapshot(104), [Transaction(101, 4, [])], 1_000)  # read before it went
    history.append(late)
    assert (list(history.stretches), history.size, history.floor) == ([], 0, Snapshot(104))


def test_many_small_batches_are_few_stretches_and_serve_the_same() -> None:
    history = History(Snapshot(100), 1 << 20)
    for n in range(1, 1001):
        history.append(stretch(100 + n, change(n, "I", (n, 1, 1))))
    assert len(history.stretches) < 10 + history.size / (UNIT_BYTES / 4)
    assert history.size == sum(s.size for s in history.stretches)
    assert all(s.size <= UNIT_BYTES for s in history.stretches)
    position, got = Snapshot(500, frozenset({333})), list[int]()
    while found := history.after(position):
        got += [xid for xid in xids(found) if not position.sees(xid)]
        position = position.union(found.upto)
    assert got == [333, *range(500, 1101)]


def test_a_large_batch_is_cut_where_somebody_is_fed_from_it_and_serves_the_same() -> None:
    history = History(Snapshot(100), 10 << 20)
    history.append(stretch(101, change(0, "I", (0, 1, 1))))
    changes = [replace(change(n, "I", (n, 1, 1)), xid=101 + n) for n in range(1, 1001)]
    many = [Transaction(c.xid, c.number, [c]) for c in changes]
    history.append(Stretch(Snapshot(102), Snapshot(1102), many, sum(c.size for c in changes)))
    history.append(stretch(1102, change(1001, "I", (1001, 1, 1))))
    assert len(history.stretches) == 3
    position, got, sizes = Snapshot(600, frozenset({333})), list[int](), list[int]()
    while found := history.after(position):
        got += [xid for xid in xids(found) if not position.sees(xid)]
        sizes.append(found.size)
        position = position.union(found.upto)
    assert got == [333, *range(600, 1103)]
    assert max(sizes) <= UNIT_BYTES
    assert history.size == sum(s.size for s in history.stretches)


def test_what_is_cut_weighs_what_its_pieces_do() -> None:
    history = History(Snapshot(100), 10 << 20)
    changes = [replace(change(n, "I", (n, 1, 1)), xid=99 + n) for n in range(1, 301)]
    many = [Transaction(c.xid, c.number, [c]) for c in changes]
    history.append(Stretch(Snapshot(100), Snapshot(400), many, 1 << 20))  # more than it is
    assert history.after(Snapshot(100)) is not None
    assert history.size == sum(s.size for s in history.stretches) == sum(c.size for c in changes)


def test_bulk_is_never_served_from_memory_and_a_changed_schema_is_a_unit_of_its_own() -> None:
    history = History(Snapshot(100), 10_000)
    history.append(stretch(101, change(1, "I", (1, 1, 1))))
    history.append(stretch(102, schema=[TABLE]))
    history.append(replace(stretch(103), transactions=None))
    units = []
    position = Snapshot(100)
    while found := history.after(position):
        units.append(xids(found))
        position = position.union(found.upto)
    assert units == [[101], [102]]
    assert position == Snapshot(103)
