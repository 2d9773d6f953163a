"""Positions: the algebra of snapshots against plain sets, and a token that is read exactly or refused."""

import string
import time
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from app.model.errors import PositionRefused, ResetReason
from app.model.position import TOKEN_LIMIT, Position, Snapshot
from tests.support import token

TOP = 24
ALL = range(TOP + 2)


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """Normalised, as all that travel are: the highest transaction below xmax is visible."""
    xmax = draw(st.integers(1, TOP))
    return Snapshot(xmax, frozenset(draw(st.sets(st.integers(0, xmax - 2), max_size=8))) if xmax > 1 else frozenset())


positions = st.builds(
    Position,
    st.integers(0, 10**18),
    st.text("0123456789abcdef", min_size=8, max_size=8),
    st.builds(
        lambda xmax, back: Snapshot(xmax, frozenset(xmax - b for b in back if xmax - b > 0)),
        st.integers(1, 2**64 - 1),
        st.sets(st.integers(1, 10**6), max_size=30),
    ),
    st.integers(0, 2**64 - 1),
    st.booleans(),
)


def seen(snapshot: Snapshot) -> set[int]:
    return {x for x in ALL if snapshot.sees(x)}


def refused(text: str) -> bool:
    try:
        Position.decode(text)
    except PositionRefused as refusal:
        return refusal.reason is ResetReason.INVALID
    return False


@given(snapshots(), snapshots())
def test_containment_and_union_are_those_of_sets(a: Snapshot, b: Snapshot) -> None:
    assert a.contains(b) == (seen(a) >= seen(b))
    assert seen(a.union(b)) == seen(a) | seen(b)
    assert a.union(b) == b.union(a)
    assert all(x < a.union(b).xmax for x in a.union(b).xip)


@given(snapshots(), snapshots(), snapshots())
def test_the_meet_is_what_both_see_and_ends_at_the_highest_of_it(a: Snapshot, b: Snapshot, c: Snapshot) -> None:
    met = a.meet(b)
    assert seen(met) == seen(a) & seen(b)
    assert met.xmax - 1 == max(seen(met), default=met.xmax - 1)
    assert all(x < met.xmax for x in met.xip)
    assert met == b.meet(a)
    assert a.contains(met)
    assert seen(met.meet(c)) == seen(a) & seen(b) & seen(c)


@given(snapshots(), st.sets(st.integers(0, TOP)))
def test_without_takes_out_exactly_these(a: Snapshot, xids: set[int]) -> None:
    assert seen(a.without(xids)) == seen(a) - xids


@given(snapshots(), st.integers(0, TOP))
def test_a_normalised_snapshot_ends_at_the_highest_event(a: Snapshot, highest: int) -> None:
    cut = a.normalised(highest)
    assert seen(cut) == {x for x in seen(a) if x <= highest}
    assert cut.xmax == min(a.xmax, highest + 1)
    assert all(x < cut.xmax for x in cut.xip)


@given(snapshots(), snapshots())
def test_what_is_missing_is_exactly_what_the_newer_sees_and_nothing_that_it_does_not(a: Snapshot, b: Snapshot) -> None:
    newer = a.union(b)
    ranges = a.missing_from(newer)
    assert all(low < high for low, high in ranges)
    assert all(before[1] <= after[0] for before, after in pairwise(ranges))
    assert {x for low, high in ranges for x in range(low, high)} == seen(newer) - seen(a)


@given(snapshots())
def test_postgresql_text_is_read_back(a: Snapshot) -> None:
    assert Snapshot.parse(str(a)) == a


@given(positions)
def test_a_token_is_read_back_and_read_alike_by_the_independent_reader(position: Position) -> None:
    text = position.encode()
    assert text is not None
    assert Position.decode(text) == position
    read = token.read(text)
    assert (read.xmax, read.xip, read.strict) == (position.snapshot.xmax, position.snapshot.xip, position.strict)


@given(positions, st.data())
def test_every_corruption_and_truncation_is_refused(position: Position, data: st.DataObject) -> None:
    text = position.encode()
    assert text is not None
    i = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from(string.printable + "é\ud800"))
    assume(other != text[i])
    assert refused(text[:i] + other + text[i + 1 :])
    assert refused(text[:i])
    assert refused(text[:i] + other + text[i:])


def test_the_example_of_the_specification() -> None:
    text = token.signed("p3-9f86d081-1201-1a2b3c-4.2")
    position = Position.decode(text)
    assert position == Position(3, "9f86d081", Snapshot(1201, frozenset({1197, 1195})), 0x1A2B3C, True)
    assert position.encode() == text


@pytest.mark.parametrize(
    "body",
    [
        "p3-9f86d081-1201-1a2b3c-4.02",
        "p3-9f86d081-01201-1a2b3c-",
        "p03-9f86d081-1201-1a2b3c-",
        "p+3-9f86d081-1201-1a2b3c-",
        "p3-9f86d081-1_201-1a2b3c-",
        "p3-9f86d081- 1201-1a2b3c-",
        "p3-9f86d081-1201-1A2B3C-",
        "p3-9f86d081-1201-0x1a-",
        "p3-9f86d081-1201-00-",
        "p3-9f86d081-1201-0-0",
        "p3-9f86d081-1201-0-4..2",
        "p3-9f86d081-1201-0-.",
        "p3-9f86d081-1201-0--4",
        "p3-9f86d081-1201-0-1201",
        "p3-9f86d081-0-0-",
        f"p3-9f86d081-{2**64}-0-",
        f"p3-9f86d081-{'9' * 4000}-0-",
        f"p{'9' * 4000}-9f86d081-5-0-",
        f"p3-9f86d081-5-{'f' * 4000}-",
        f"p3-9f86d081-5-0-{'9' * 4000}",
        f"p3-9f86d081-5-0-{'1.' * 2000}1",
        "x3-9f86d081-1201-0-",
        "p3-9f86d08-1201-0-",
        "p3-é-1201-0-",
        "p3",
        "",
        "----",
    ],
)
def test_a_forged_token_with_a_right_check_is_refused_at_once(body: str) -> None:
    began = time.process_time()
    assert refused(token.signed(body))
    assert time.process_time() - began < 0.5


def test_a_huge_text_is_refused_at_once() -> None:
    assert refused("p" * 50_000_000)


@pytest.mark.parametrize(("holes", "made"), [(1300, True), (3000, False)])
def test_a_token_over_the_limit_is_withheld(holes: int, made: bool) -> None:
    snapshot = Snapshot(10**9, frozenset(10**9 - 12 * n for n in range(1, holes)))
    text = Position(1, "00000000", snapshot).encode()
    assert (text is not None) == made
    if text is not None:
        assert len(text) <= TOKEN_LIMIT
        assert Position.decode(text).snapshot == snapshot
