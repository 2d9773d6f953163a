"""A stretch serves exactly whom it should, and its pieces are together what it was."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from app.model.change import Transaction
from app.model.position import Snapshot
from app.stream.stretch import UNIT_BYTES, Stretch, pieces
from tests.unit.changes import TABLE, change

SINCE, UPTO = Snapshot(103, frozenset({101})), Snapshot(106, frozenset({104}))


def transaction(xid: int, size: int = 0, *, schema: bool = False) -> Transaction:
    """One that inserted one row of about `size` bytes."""
    made = change(xid, "I", (xid, 1, 1))
    made.new = (made.new or b"").ljust(size)
    return Transaction(xid, xid, [made], [TABLE] if schema else [])


def test_a_stretch_serves_who_has_all_before_it_and_lacks_something_of_it() -> None:
    stretch = Stretch(SINCE, UPTO, [transaction(n) for n in (101, 103, 105)], 300)
    assert stretch.serves(SINCE)
    assert stretch.serves(SINCE.union(Snapshot(104, frozenset({101}))))  # some of it is known already
    assert not stretch.serves(UPTO)
    assert not stretch.serves(Snapshot(110))
    assert not stretch.serves(Snapshot(103, frozenset({101, 102})))  # lacks what came before


def test_a_stretch_holds_what_is_gone_where_one_of_its_transactions_is() -> None:
    stretch = Stretch(SINCE, UPTO, [transaction(103)], 100)
    assert not stretch.holds(Snapshot(103))
    assert stretch.holds(Snapshot(104))
    assert not Stretch(SINCE, UPTO, None, 100).holds(Snapshot(200))


@given(st.lists(st.tuples(st.sampled_from([100, UNIT_BYTES // 3, UNIT_BYTES * 2]), st.booleans()), max_size=12))
def test_pieces_follow_each_other_and_hold_the_same(drawn: list[tuple[int, bool]]) -> None:
    held = [transaction(100 + n, size, schema=schema) for n, (size, schema) in enumerate(drawn)]
    whole = Stretch(Snapshot(100), Snapshot(100 + len(held)), held, sum(c.size for t in held for c in t.changes))
    found = list(pieces(whole))
    assert (found[0].since, found[-1].upto) == (whole.since, whole.upto)
    assert all(before.upto == after.since for before, after in pairwise(found))
    assert [t for piece in found for t in piece.transactions or ()] == held
    assert sum(piece.size for piece in found) == whole.size
    for piece in found:
        assert piece.size <= UNIT_BYTES or len(piece.transactions or ()) == 1
        if len(found) > 1 and piece.schema:
            assert len(piece.transactions or ()) == 1


def test_what_was_not_read_is_one_piece() -> None:
    whole = Stretch(SINCE, UPTO, None, 10 * UNIT_BYTES)
    assert list(pieces(whole)) == [whole]
