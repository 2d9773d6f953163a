"""A replay in portions: whole statements, because the rows of one that leave a channel come before those that enter."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from app.model.change import Change, Portion, Table, Transaction
from app.model.position import Snapshot
from app.postgres.replay import split
from app.stream.ports import PORTION_BYTES

TABLE = Table.declared(
    gen=1, relid=1, schema="public", name="posts", key=("id",), routes=[], columns=("id",), types=("bigint",),
    kinds="n", xid=1, ended=False,
)  # fmt: skip
AT = 1_767_225_600_000_000
UPTO = Snapshot(100)


def change(number: int, n: int, size: int) -> Change:
    return Change(number, n, 5, TABLE, "I", 1, None, AT, (str(n),), None, b"x" * size, None)


def transaction(sizes: list[list[int]]) -> Transaction:
    """Of statements, each with the sizes of its rows."""
    changes = [change(number, n, size) for number, rows in enumerate(sizes) for n, size in enumerate(rows)]
    return Transaction(5, len(sizes), changes, [])


SIZES = st.lists(st.lists(st.integers(1, PORTION_BYTES // 3), min_size=1, max_size=4), min_size=1, max_size=6)


@given(st.lists(SIZES, max_size=4))
def test_portions_hold_everything_in_order_and_cut_no_statement_that_fits_in_one(given_: list[list[list[int]]]) -> None:
    found = [transaction(sizes) for sizes in given_]
    portions: list[Portion] = list(split(found, UPTO))
    sent = [c for p in portions for t in p.transactions for c in t.changes]
    assert sent == [c for t in found for c in t.changes]
    assert [p.upto for p in portions] == [None] * (len(portions) - 1) + [UPTO]
    for before, after in pairwise(portions):
        first = after.transactions[0].changes
        cut = first and first[0].n > 0
        if cut:  # it began a portion of its own, and did not fit
            assert len({c.number for t in before.transactions for c in t.changes}) == 1
            assert len(before.transactions) == 1
            assert sum(c.size for c in before.transactions[0].changes) + first[0].size > PORTION_BYTES


def test_a_small_transaction_beside_the_border_is_not_cut() -> None:
    found = [transaction([[PORTION_BYTES - 500]]), transaction([[300, 300, 300, 300]])]
    assert [[len(t.changes) for t in p.transactions] for p in split(found, UPTO)] == [[1], [4]]
