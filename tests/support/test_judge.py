"""The judge itself: a stream as the event log says is never faulted, a planted loss, repetition, swap or lie always."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from tests.support import token
from tests.support.judge import judge, report
from tests.support.stream import Message, Stream
from tests.support.truth import Event, Truth, canonical, delivery, parse_channel

CHANNELS = ["posts", "posts:author_id=1"]
ACTION = {"I": "INSERT", "U": "UPDATE", "D": "DELETE"}


class World:
    """A tiny database: transactions of row changes, each of which becomes visible in some batch."""

    def __init__(self, draw: Callable[[Any], Any]) -> None:
        self.rows: dict[int, dict[str, Any]] = {}
        self.events: list[Event] = []
        self.batches: list[list[int]] = []
        self.xid = 100
        for _ in range(draw(st.integers(1, 4))):
            self.batches.append([self._transaction(draw) for _ in range(draw(st.integers(0, 3)))])
        self.truth = Truth(self.events)

    def _transaction(self, draw: Callable[[Any], Any]) -> int:
        self.xid += draw(st.integers(1, 3))
        for _ in range(draw(st.integers(1, 3))):
            self._change(draw(st.sampled_from("IIUUD")), draw(st.integers(0, 10)), draw(st.integers(1, 2)))
        return self.xid

    def _change(self, op: str, pick: int, author: int) -> None:
        number = len(self.events)
        old = None if op == "I" or not self.rows else self.rows.pop(list(self.rows)[pick % len(self.rows)])
        new = (
            None
            if old is not None and op == "D"
            else {"id": (old or {"id": number})["id"], "author_id": author, "title": f"v{number}"}
        )
        if new is not None:
            self.rows[new["id"]] = new
        true_op = "I" if old is None else "D" if new is None else "U"
        self.events.append(Event(self.xid, number, 0, true_op, False, "posts", new, old, ("id",)))

    def messages(self) -> list[Message]:
        """What a right server sends: one unit a batch, each part with at most two changes."""
        sent: list[Message] = [{"type": "subscribed", "id": 1, "channels": CHANNELS, "position": token.mint(100)}]
        seen: list[int] = []
        for batch in self.batches:
            seen += batch
            changes = [c for xid in batch for c in self._changes(xid)]
            parts = [changes[i : i + 2] for i in range(0, len(changes), 2)]
            sent += [{"type": "changes", "changes": part, "more": True} for part in parts]
            sent.append({"type": "position", "position": self.position(seen)})
        return sent

    @staticmethod
    def position(seen: list[int]) -> str:
        top = max(seen, default=99) + 1
        return token.mint(top, [xid for xid in range(100, top) if xid not in seen])

    def _changes(self, xid: int) -> list[dict[str, Any]]:
        found = []
        for event in self.events:
            for channel in CHANNELS if event.xid == xid else []:
                seen = delivery(event, parse_channel(channel)[1])
                if seen is not None:
                    found.append(
                        {
                            "channel": channel,
                            "id": str(event.id),
                            "tx": str(xid),
                            "action": seen.action,
                            "data": event.new if seen.new != "null" else None,
                            "old": event.old if seen.old != "null" else None,
                        }
                    )
        return found


def heard(messages: list[Message]) -> Stream:
    stream = Stream()
    stream.connected()
    stream.asking(CHANNELS, None)
    for message in messages:
        stream.feed(message)
    return stream


def final(messages: list[Message]) -> str:
    position: str = messages[-1]["position"]
    return position


worlds = st.composite(World)()


@given(worlds)
def test_a_right_stream_has_no_findings(world: World) -> None:
    sent = world.messages()
    findings = judge(heard(sent), world.truth, final=final(sent))
    assert not findings, report(findings)


def parts(sent: list[Message]) -> list[int]:
    return [i for i, message in enumerate(sent) if message["type"] == "changes"]


@given(worlds, st.integers(0, 1000))
def test_a_lost_change_is_found(world: World, pick: int) -> None:
    sent = world.messages()
    assume(parts(sent))
    part = sent[parts(sent)[pick % len(parts(sent))]]
    part["changes"].pop(pick % len(part["changes"]))
    assert judge(heard(sent), world.truth)


@given(worlds, st.integers(0, 1000), st.booleans())
def test_a_repeated_change_is_found(world: World, pick: int, renamed: bool) -> None:
    sent = world.messages()
    assume(parts(sent))
    part = sent[parts(sent)[pick % len(parts(sent))]]
    again = part["changes"][-1] | ({"id": "elsewhere"} if renamed else {})
    part["changes"].append(again)
    assert judge(heard(sent), world.truth)


@given(worlds, st.integers(0, 1000))
def test_two_changes_of_a_transaction_in_the_wrong_order_are_found(world: World, pick: int) -> None:
    sent = world.messages()
    changes = [c for i in parts(sent) for c in sent[i]["changes"]]
    pairs = [
        (a, b)
        for i, a in enumerate(changes)
        for b in changes[i + 1 :]
        if a["channel"] == b["channel"] and a["tx"] == b["tx"]
    ]
    assume(pairs)
    first, second = pairs[pick % len(pairs)]
    copy = dict(first)
    first.update(second)
    second.update(copy)
    assert judge(heard(sent), world.truth)


@given(worlds, st.integers(0, 1000))
def test_a_change_that_came_after_its_position_is_found(world: World, pick: int) -> None:
    sent = world.messages()
    marks = [i for i in range(1, len(sent) - 1) if sent[i]["type"] == "position" and sent[i - 1]["type"] == "changes"]
    assume(marks)
    at = marks[pick % len(marks)]
    sent[at - 1], sent[at] = sent[at], sent[at - 1]
    assert judge(heard(sent), world.truth)


@given(worlds, st.integers(0, 1000))
def test_a_row_with_a_wrong_value_is_found(world: World, pick: int) -> None:
    sent = world.messages()
    assume(parts(sent))
    part = sent[parts(sent)[pick % len(parts(sent))]]
    change = part["changes"][pick % len(part["changes"])]
    side = "data" if change["data"] is not None else "old"
    change[side] = change[side] | {"title": "forged"}
    assert judge(heard(sent), world.truth)


@given(worlds)
def test_a_stream_that_stops_early_is_found(world: World) -> None:
    sent = world.messages()
    end = final(sent)
    assume(any(world.batches[-1:]) and token.read(end) != token.read(sent[-1 - _last_unit(sent)]["position"]))
    assert judge(heard(sent[: -_last_unit(sent)]), world.truth, final=end)


def _last_unit(sent: list[Message]) -> int:
    """Messages of the last unit."""
    count = 1
    while "position" not in sent[-1 - count]:
        count += 1
    return count


@given(worlds, st.integers(0, 1000))
def test_a_unit_cut_open_and_sent_again_is_counted_and_not_faulted(world: World, pick: int) -> None:
    sent = world.messages()
    assume(parts(sent))
    at = parts(sent)[pick % len(parts(sent))]
    start = max(i for i in range(at) if "position" in sent[i]) + 1
    stream = heard(sent[: at + 1])
    stream.cut()
    stream.connected()
    for channels, position in stream.wanted():
        stream.asking(channels, position)
        stream.feed({"type": "subscribed", "id": 1, "channels": channels, "position": position or sent[0]["position"]})
    for message in sent[start:]:
        stream.feed(message)
    findings = judge(stream, world.truth, final=final(sent))
    assert not findings, report(findings)
    assert len(stream.duplicates) == sum(len(sent[i]["changes"]) for i in parts(sent) if start <= i <= at)


@given(worlds)
def test_the_tables_own_rows_have_the_last_word(world: World) -> None:
    sent = world.messages()
    state = world.truth.state_at("posts", token.read(final(sent)))
    world.truth.tables["posts"] = state
    assert not judge(heard(sent), world.truth, final=final(sent))
    world.truth.tables["posts"] = state + type(state)(["a row that no trigger saw"])
    assert [f.kind for f in judge(heard(sent), world.truth, final=final(sent))] == ["replay"]


@given(worlds)
def test_rows_that_were_there_before_the_first_event_are_where_a_replay_begins(world: World) -> None:
    sent, before = world.messages(), {"id": -1, "author_id": 1, "title": "before"}
    truth, end = Truth(world.events, base={"posts": [before]}), token.read(final(sent))
    state = world.truth.state_at("posts", end) + Counter([canonical(before)])
    assert truth.state_at("posts", end) == state
    truth.tables["posts"] = state
    assert not judge(heard(sent), truth, final=final(sent))
    emptied = [*world.events, Event(end.xmax, len(world.events), 0, "T", False, "posts", None, None)]
    after = token.read(token.mint(end.xmax + 1))
    assert not Truth(emptied, base={"posts": [before]}).state_at("posts", after)
