"""The wire: frames and events that independent decoders read, units in parts, and every bad input named."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core import wire
from app.model.change import text_json
from app.model.errors import BadChannel, BadRequest, RateLimited, ResetReason


def unframed(frame: bytes) -> tuple[int, bytes]:
    """RFC 6455, 5.2, by hand: the opcode and the payload of one final, unmasked frame, of the shortest form."""
    assert frame[0] & 0x80
    size, at = frame[1] & 0x7F, 2
    assert not frame[1] & 0x80
    if size == 126:
        size, at = int.from_bytes(frame[2:4], "big"), 4
        assert size >= 126
    elif size == 127:
        size, at = int.from_bytes(frame[2:10], "big"), 10
        assert size >= 65536
    assert len(frame) == at + size
    return frame[0] & 0x0F, frame[at:]


def bad(text: str) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        wire.decode(text)
    return caught.value


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 70000])
def test_a_frame_holds_its_payload_whatever_its_size(size: int) -> None:
    payload = bytes(i % 251 for i in range(size))
    assert unframed(wire.frame_head(len(payload)) + payload) == (1, payload)


@given(st.text(), st.none() | st.just("p1-00000001-5-0--12345678"))
def test_socket_and_event_carry_the_same_json(text: str, position: str | None) -> None:
    message = wire.Message("changes", b'"x":' + text_json(text), position=position)
    data = message.json.decode("utf-8")
    expected = {"type": "changes", "x": text} | ({"position": position} if position else {})
    assert json.loads(data) == expected
    assert unframed(message.ws) == (1, message.json)
    lines = message.event.split(b"\n")
    assert lines[-2:] == [b"", b""]
    fields = dict(line.split(b": ", 1) for line in lines[:-2])
    assert fields.pop(b"data") == message.json
    assert fields == ({b"id": position.encode()} if position else {})
    head, rest = message.sse.split(b"\r\n", 1)
    assert rest == message.event + b"\r\n"
    assert int(head, 16) == len(message.event)


@given(st.lists(st.integers(1, 60), max_size=30), st.integers(1, 100), st.none() | st.just("P"))
def test_a_unit_in_parts_loses_nothing_and_only_its_end_has_the_position(
    sizes: list[int], limit: int, token: str | None
) -> None:
    items = [json.dumps({"n": n, "x": "y" * size}).encode() for n, size in enumerate(sizes)]
    parts = [json.loads(m.json) for m in wire.changes(items, token, limit)]
    assert [c["n"] for p in parts for c in p["changes"]] == list(range(len(items)))
    assert all(p["changes"] for p in parts)
    for part in parts[:-1]:
        assert part["more"] is True
        assert "position" not in part
    for part in parts:
        assert len(part["changes"]) == 1 or sum(len(json.dumps(c)) for c in part["changes"]) <= limit
    if parts:
        assert parts[-1].get("position") == token
        assert parts[-1].get("more", False) is (token is None)


def test_messages_say_what_they_must() -> None:
    def told(message: wire.Message) -> Any:
        return json.loads(message.json)

    assert told(wire.subscribed(1, ["posts"], "P")) == {
        "type": "subscribed", "id": 1, "channels": ["posts"], "position": "P",
    }  # fmt: skip
    assert told(wire.unsubscribed(None, ["posts"])) == {"type": "unsubscribed", "channels": ["posts"]}
    assert told(wire.position("P")) == {"type": "position", "position": "P"}
    assert told(wire.pong("x")) == {"type": "pong", "id": "x"}
    assert told(wire.reset(["posts"], ResetReason.LOST, "P")) == {
        "type": "reset", "channels": ["posts"], "reason": "lost", "position": "P",
    }  # fmt: skip
    assert told(wire.error(BadChannel("no", channel="x"), 0)) == {
        "type": "error", "id": 0, "code": "bad_channel", "message": "no", "channel": "x",
    }  # fmt: skip
    assert told(wire.error(RateLimited("no", 5), 0)) == {
        "type": "error", "id": 0, "code": "rate_limited", "message": "no", "retry_after_ms": 5,
    }  # fmt: skip


ids = st.none() | st.integers(-(10**100), 10**100) | st.text()
channels = st.lists(st.text(), min_size=1, unique=True)


@given(ids, channels, st.none() | st.text(), st.booleans())
def test_a_command_is_read_as_it_was_meant(
    id: int | str | None, names: list[str], position: str | None, snapshot: bool
) -> None:
    text = json.dumps({"type": "subscribe", "id": id, "channels": names, "position": position, "snapshot": snapshot})
    assert wire.decode(text) == wire.Subscribe(id, tuple(names), position, snapshot)
    text = json.dumps({"type": "unsubscribe", "id": id, "channels": names})
    assert wire.decode(text) == wire.Unsubscribe(id, tuple(names))
    assert wire.decode(json.dumps({"type": "ping", "id": id})) == wire.Ping(id)


@given(ids)
def test_an_id_comes_back_as_it_was(id: int | str | None) -> None:
    text = json.dumps({"type": "ping", "id": id})
    command = wire.decode(text)
    assert json.loads(wire.pong(command.id).json.decode("utf-8")).get("id") == id
    assert wire.request_id(text) == id


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "nope",
        "NaN",
        '{"type":"ping","id":NaN}',
        '{"type":"ping","x":-Infinity}',
        "[" * 60000,
        '{"a":' * 10000,
        '{"type":"ping","id":' + "9" * 5000 + "}",
        "\ufeff{}",
        "'",
        '{"type":"ping"}x',
    ],
)
def test_what_is_not_json_is_refused(text: str) -> None:
    assert bad(text).message.startswith("not JSON")
    assert wire.request_id(text) is None


@pytest.mark.parametrize("text", ["[]", "1", "null", '"x"', "true"])
def test_what_is_no_object_is_refused(text: str) -> None:
    assert "object" in bad(text).message
    assert wire.request_id(text) is None


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ({}, "type"),
        ({"type": None}, "type"),
        ({"type": ["subscribe"]}, "type"),
        ({"type": {"a": "x" * 5000}}, "type"),
        ({"type": "Subscribe", "channels": ["posts"]}, "type"),
        ({"type": "publish", "channel": "room/x", "data": 1}, "type"),
        ({"type": "ping", "id": 1.5}, "id"),
        ({"type": "ping", "id": True}, "id"),
        ({"type": "ping", "id": []}, "id"),
        ({"type": "subscribe"}, "channels"),
        ({"type": "subscribe", "channels": "posts"}, "channels"),
        ({"type": "subscribe", "channels": []}, "channels"),
        ({"type": "subscribe", "channels": ["posts", 1]}, "channels"),
        ({"type": "subscribe", "channels": ["posts", "posts"]}, "channels"),
        ({"type": "subscribe", "channels": {"posts": 1}}, "channels"),
        ({"type": "subscribe", "channels": ["posts"], "position": 5}, "position"),
        ({"type": "subscribe", "channels": ["posts"], "position": {}}, "position"),
        ({"type": "subscribe", "channels": ["posts"], "snapshot": "yes"}, "snapshot"),
        ({"type": "unsubscribe"}, "channels"),
        ({"type": "unsubscribe", "channels": [None]}, "channels"),
    ],
)
def test_a_wrong_field_is_named(message: dict[str, object], field: str) -> None:
    problem = bad(json.dumps(message))
    assert problem.field == field
    assert len(problem.message) < 400
    if field != "id":
        assert wire.request_id(json.dumps(message | {"id": "mine"})) == "mine"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.sampled_from(["type", "id"]), inner),
    )
)
def test_whatever_comes_is_read_or_refused(value: object) -> None:
    text = json.dumps(value)
    try:
        wire.decode(text)
    except BadRequest as problem:
        json.loads(wire.error(problem, wire.request_id(text)).json.decode("utf-8"))


@pytest.mark.parametrize(("heartbeat", "told"), [(25.0, 25), (1.9, 1.9), (0.5, 0.5)])
def test_the_heartbeat_that_is_told_is_the_one_that_is_kept(heartbeat: float, told: float) -> None:
    message = json.loads(wire.welcome("s", "v", heartbeat, {}).json)
    assert message["heartbeat"] == told
    assert isinstance(message["heartbeat"], type(told))
