"""What a read of what is new says beside events: the header and the footer of its rows, and when it is refused."""

from typing import Any

import pytest

from app.model.errors import DatabaseAway
from app.model.position import Snapshot
from app.postgres.difference import unpack_difference
from app.postgres.pages import LARGE_CHANGES

Row = tuple[Any, ...]

HEADER: Row = (0, 0, 0, 0, "H", 0, None, 0, 0, ["90:100:95", "10:12:", "4096", None], None, None, None)
FOOTER: Row = (5000, 0, 0, 0, "F", 0, None, 0, 0, None, None, None, None)


def event(number: int, op: str = "I") -> Row:
    return (number, 1, 96, 7, op, 1, None, 0, 0, ["1"], None, b"{}", None)


def test_nothing_new_still_says_where_the_event_log_stands() -> None:
    found = unpack_difference([HEADER, FOOTER])
    assert found.snapshot == Snapshot(100, frozenset({95}))
    assert found.floor == Snapshot(12)
    assert (found.written, found.flushed) == (4096, 5000)
    assert (list(found.events), found.too_large) == ([], False)


def test_events_come_as_they_were_read_without_header_and_footer() -> None:
    events = [event(1), event(2, "U"), event(3, "D")]
    found = unpack_difference([HEADER, *events, FOOTER])
    assert list(found.events) == events
    assert not found.too_large


def test_without_a_header_the_event_log_is_being_replaced() -> None:
    for rows in ([FOOTER], [event(1), FOOTER]):
        with pytest.raises(DatabaseAway, match="replaced"):
            unpack_difference(rows)


@pytest.mark.parametrize(("count", "too_large"), [(LARGE_CHANGES, False), (LARGE_CHANGES + 1, True)])
def test_one_event_more_than_can_be_held_is_too_large(count: int, too_large: bool) -> None:
    found = unpack_difference([HEADER, *(event(i) for i in range(count)), FOOTER])
    assert (len(found.events), found.too_large) == (count, too_large)


def test_an_event_that_came_without_its_values_is_too_large() -> None:
    assert unpack_difference([HEADER, event(1), event(2, "X"), FOOTER]).too_large


def test_a_result_that_ends_early_is_never_taken_for_a_whole_one() -> None:
    with pytest.raises(AssertionError):
        unpack_difference([HEADER, event(1), event(2)])
