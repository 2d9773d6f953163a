"""A connection's state: what may be subscribed, and what a unit says to it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.audience import Channel, Point
from app.core.index import Seen
from app.core.session import Session, State, part
from app.model.change import Change, Form, Table
from app.model.channel import parse
from app.model.errors import BadChannel, BadRequest
from app.model.position import Snapshot

POSTS = Table(1, 7, "public", "posts", ("id",), (), ("id",), ("int",), "n", 9)
NOTES = Table(2, 8, "public", "notes", ("id",), (), ("id",), ("int",), "n", 9)
CHANNELS = {t.name: Channel(str(parse(t.name)), t.relid, (), (), b'"%s"' % t.name.encode()) for t in (POSTS, NOTES)}
END = Point(Snapshot(200), "p1-end")


def seen(table: Table, n: int) -> Seen:
    change = Change(n, 1, 150, table, "I", 1, None, 0, (str(n),), None, b'{"id":%d}' % n, None)
    return change, CHANNELS[table.name], Form.WHOLE


def told(
    found: list[Seen], limit: int = 10_000, end: Point | None = END, schema: set[int] | None = None
) -> list[dict[str, Any]]:
    return [json.loads(message.json) for message in part(found, CHANNELS, limit, end, schema or set())]


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["a", "a"], "names a channel twice"),
        (["posts"], "'posts' is subscribed already"),
        (["notes", "posts"], "'posts' is subscribed already"),
        (["a", "b", "c"], "at most 3 channels"),
    ],
)
def test_what_can_not_be_added_is_refused_with_the_field(names: list[str], problem: str) -> None:
    session = Session(3)
    session.channels["posts"] = CHANNELS["posts"]
    with pytest.raises(BadRequest, match=problem) as refused:
        session.check_subscribe(names)
    assert refused.value.field == "channels"
    session.check_subscribe(["a", "b"])


def test_the_names_of_a_connection_have_a_bound_together() -> None:
    """A stranger's thousand names of 2 kB would be megabytes on each of its connections."""
    session = Session(1000)
    name = "x" * 1024
    session.channels |= {f"{n}{name}"[:1024]: CHANNELS["posts"] for n in range(100, 227)}
    with pytest.raises(BadRequest, match="131072 characters in all") as refused:
        session.check_subscribe(["a" * 1024, "b"])
    assert refused.value.field == "channels"
    session.check_subscribe(["a" * 1024])


def test_a_thousand_names_of_three_uuids_are_within_the_bound() -> None:
    uuid = "3f2504e0-4f89-11d3-9a0c-0305e82c3301"
    Session(1000).check_subscribe([f"t:a={uuid[:-4]}{n:04},b={uuid},c={uuid}" for n in range(1000)])


def test_only_what_is_subscribed_can_be_given_up() -> None:
    session = Session(3)
    session.channels["posts"] = CHANNELS["posts"]
    session.check_unsubscribe(["posts"])
    with pytest.raises(BadChannel) as refused:
        session.check_unsubscribe(["posts", "notes"])
    assert refused.value.channel == "notes"


def test_a_session_is_new_then_fed_or_live_and_over_when_it_is_closed() -> None:
    session = Session(3)
    assert (session.state, session.point, session.over) == (State.NEW, None, False)
    session.feed(END)
    assert (session.state, session.point) == (State.FEEDING, END)
    later = Point(Snapshot(300), "p1-later")
    session.go_live(later)
    assert (session.state, session.point, session.closed) == (State.LIVE, later, False)
    session.close()
    assert session.closed
    assert session.over


def test_a_unit_in_which_nothing_matched_is_a_bare_position() -> None:
    assert told([]) == [{"type": "position", "position": "p1-end"}]
    assert told([], end=None) == []
    assert told([], end=Point(Snapshot(200), None)) == []


@given(st.lists(st.sampled_from([POSTS, NOTES]), min_size=1, max_size=8), st.integers(1, 2_000), st.booleans())
def test_all_is_told_in_order_and_the_last_message_alone_has_the_position_where_the_unit_ends(
    tables: list[Table], limit: int, ends: bool
) -> None:
    messages = told([seen(table, n) for n, table in enumerate(tables)], limit, END if ends else None)
    changes = [(c["channel"], c["key"]["id"]) for m in messages for c in m["changes"]]
    assert changes == [(table.name, n) for n, table in enumerate(tables)]
    last = ("p1-end", None) if ends else (None, True)
    assert [(m.get("position"), m.get("more")) for m in messages] == [(None, True)] * (len(messages) - 1) + [last]


def test_channels_whose_table_changed_get_a_reset_in_place_of_their_changes() -> None:
    messages = told([seen(POSTS, 1), seen(NOTES, 2)], schema={POSTS.relid})
    assert [m["type"] for m in messages] == ["changes", "reset"]
    assert [c["channel"] for c in messages[0]["changes"]] == ["notes"]
    assert messages[0]["more"]
    assert messages[1] == {"type": "reset", "channels": ["posts"], "reason": "schema", "position": "p1-end"}


def test_a_reset_waits_for_the_end_of_its_unit() -> None:
    assert told([seen(POSTS, 1)], end=None, schema={POSTS.relid}) == []
