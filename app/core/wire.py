"""The only encoder and decoder of the protocol: JSON messages, and both framings of the same bytes.

A message is encoded once, however many clients get it: `ws` is a whole WebSocket text frame, `event` one server-sent
event, `sse` that event as one HTTP chunk. JSON here has no raw line break (PostgreSQL's are blanked when read), so
an event is one `data:` line.
"""

import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from app.model.change import UTF8, text_json
from app.model.channel import check_distinct
from app.model.errors import BadRequest, ClientError, RateLimited, ResetReason

INBOUND_BYTES = 65536
JsonId = int | str | None


class Message:
    """One message to clients, with a `body` in parts, from which each of its forms is joined in one go. `size` is that
    of its JSON, in bytes. `table` and `changes` are for the metrics: the table's channel or "", and how many."""

    def __init__(self, kind: str, *body: bytes, position: str | None = None, table: str = "", changes: int = 0) -> None:
        self.kind = kind
        self.position = position
        self.table = table
        self.changes = changes
        head = b'{"type":"%s",' if any(body) else b'{"type":"%s"'
        tail = b',"position":"%s"}' % position.encode() if position is not None else b"}"
        self._parts: tuple[bytes | memoryview, ...] = (head % kind.encode(), *body, tail)
        self.size = sum(map(len, self._parts))

    @cached_property
    def json(self) -> bytes:
        return b"".join(self._parts)

    @cached_property
    def ws(self) -> bytes:
        return self._between(frame_head(self.size), b"")

    @cached_property
    def event(self) -> bytes:
        return b"".join((self._id, *self._parts, b"\n\n"))

    @cached_property
    def sse(self) -> bytes:
        size = len(self._id) + self.size + 2
        return self._between(b"%x\r\n%s" % (size, self._id), b"\n\n\r\n")

    def _between(self, head: bytes, tail: bytes) -> bytes:
        """The message between these. It stands there from now on, and not in parts beside: some are kept for long."""
        whole = b"".join((head, *self._parts, tail))
        self._parts = (memoryview(whole)[len(head) : len(head) + self.size],)
        return whole

    @property
    def _id(self) -> bytes:
        return b"id: %s\ndata: " % self.position.encode() if self.position is not None else b"data: "


def frames(messages: Sequence[Message]) -> bytes:
    """The bytes of all these messages for a WebSocket."""
    return messages[0].ws if len(messages) == 1 else b"".join([m.ws for m in messages])


def chunks(messages: Sequence[Message]) -> bytes:
    """The bytes of all these messages for an event stream."""
    return messages[0].sse if len(messages) == 1 else b"".join([m.sse for m in messages])


def frame_head(size: int) -> bytes:
    """What is before `size` bytes in a whole, unmasked WebSocket text frame (RFC 6455, 5.2)."""
    if size < 126:
        return struct.pack("!BB", 0x81, size)
    if size < 65536:
        return struct.pack("!BBH", 0x81, 126, size)
    return struct.pack("!BBQ", 0x81, 127, size)


def welcome(server: str, version: str, heartbeat: float, limits: dict[str, int]) -> Message:
    whole = int(heartbeat) if heartbeat == int(heartbeat) else heartbeat
    return Message("welcome", _fields(server=server, version=version, heartbeat=whole, limits=limits))


def subscribed(id: JsonId, channels: Sequence[str], position: str | None) -> Message:
    return Message("subscribed", _fields(id=id, channels=channels), position=position)


def unsubscribed(id: JsonId, channels: Sequence[str]) -> Message:
    return Message("unsubscribed", _fields(id=id, channels=channels))


def position(token: str) -> Message:
    return Message("position", position=token)


def reset(channels: Sequence[str], reason: ResetReason, token: str | None) -> Message:
    return Message("reset", _fields(channels=channels, reason=reason.value), position=token)


def reconnect(after_ms: int, reason: str) -> Message:
    return Message("reconnect", _fields(after_ms=after_ms, reason=reason))


def authenticated(id: JsonId, user: str | None, expires: float | None) -> Message:
    at = None if expires is None else datetime.fromtimestamp(expires, UTC).isoformat(timespec="seconds")
    return Message("authenticated", _fields(id=id, user=user, expires_at=at))


def auth_expiring(in_ms: int) -> Message:
    return Message("auth_expiring", _fields(in_ms=in_ms))


def pong(id: JsonId) -> Message:
    return Message("pong", _fields(id=id))


def error(problem: ClientError, id: JsonId = None) -> Message:
    retry_after_ms = problem.retry_after_ms if isinstance(problem, RateLimited) else None
    named = {"field": problem.field, "channel": problem.channel, "retry_after_ms": retry_after_ms}
    return Message("error", _fields(id=id, code=problem.code, message=problem.message, **named))


def changes(items: Iterable[bytes], token: str | None, limit: int, table: str = "") -> Iterator[Message]:
    """One unit as messages of about `limit` bytes, each made when it is asked for. All but the last have `more`; the
    last alone has the position.

    With `token` None every message has `more`: the unit goes on.
    """
    part: list[bytes] = []
    size = 0
    for item in items:
        if part and size + len(item) > limit:
            yield _part(part, None, table)
            part, size = [], 0
        part.append(item)
        size += len(item) + 1
    if part:
        yield _part(part, token, table)


def _part(items: list[bytes], token: str | None, table: str) -> Message:
    end = b"]" if token else b'],"more":true'
    return Message("changes", b'"changes":[', b",".join(items), end, position=token, table=table, changes=len(items))


def snapshot(channels: Mapping[str, Sequence[bytes]], token: str | None, limit: int) -> Iterator[Message]:
    """The rows of each channel in pages of about `limit` bytes; the very last ends the unit."""
    pages = ((name, page) for name, rows in channels.items() for page in _pages(rows, limit))
    last = None
    for name, page in pages:
        if last is not None:
            yield _page(*last, None, more=True)
        last = name, page
    if last is not None:
        yield _page(*last, token, more=False)


def _pages(rows: Sequence[bytes], limit: int) -> Iterator[Sequence[bytes]]:
    start = size = 0
    for end, row in enumerate(rows):
        if end > start and size + len(row) > limit:
            yield rows[start:end]
            start, size = end, 0
        size += len(row) + 1
    yield rows[start:]


def _page(channel: str, rows: Sequence[bytes], token: str | None, *, more: bool) -> Message:
    body = b'"channel":%s,"rows":[%s],"more":%s' % (text_json(channel), b",".join(rows), b"true" if more else b"false")
    return Message("snapshot", body, position=token, table=channel.partition(":")[0])


def change(channel: bytes, body: bytes) -> bytes:
    """A change as one channel sees it; `channel` is the channel's name as JSON."""
    return b'{"channel":%s,%s}' % (channel, body)


def _fields(**fields: object) -> bytes:
    return b",".join(
        text_json(name) + b":" + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(*UTF8)
        for name, value in fields.items()
        if value is not None
    )


@dataclass(frozen=True, slots=True)
class Subscribe:
    id: JsonId
    channels: tuple[str, ...]
    position: str | None
    snapshot: bool


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    id: JsonId
    channels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ping:
    id: JsonId


@dataclass(frozen=True, slots=True)
class Auth:
    id: JsonId
    token: str = field(repr=False)


Command = Subscribe | Unsubscribe | Auth | Ping
_LATER = ("publish", "presence")


def decode(text: str) -> Command:
    """Read a client's message. Raises BadRequest, which names the field; `request_id` finds its id all the same."""
    try:
        message = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as problem:
        raise BadRequest(f"not JSON: {problem}") from problem
    if not isinstance(message, dict):
        raise BadRequest("a message is a JSON object")
    kind, id = message.get("type"), _id(message)
    if kind == "ping":
        return Ping(id)
    if kind == "subscribe":
        return Subscribe(id, _channels(message), _position(message), _snapshot(message))
    if kind == "unsubscribe":
        return Unsubscribe(id, _channels(message))
    if kind == "auth":
        return Auth(id, _token(message))
    if kind in _LATER:
        raise BadRequest(f"{kind!r} is not part of this version", field="type")
    raise BadRequest(f"unknown type {kind!r}"[:200], field="type")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def request_id(text: str) -> JsonId:
    """The id of a message that could not be read otherwise; None where there is none."""
    try:
        return _id(json.loads(text))
    except (ValueError, RecursionError, AttributeError, BadRequest):
        return None


def _id(message: dict[str, Any]) -> JsonId:
    id = message.get("id")
    if id is not None and (isinstance(id, bool) or not isinstance(id, int | str)):
        raise BadRequest("'id' is an integer or a string", field="id")
    return id


def _channels(message: dict[str, Any]) -> tuple[str, ...]:
    channels = message.get("channels")
    if not isinstance(channels, list) or not channels or not all(isinstance(c, str) for c in channels):
        raise BadRequest("'channels' is a list of at least one channel name", field="channels")
    check_distinct(channels, "channels")
    return tuple(channels)


def _position(message: dict[str, Any]) -> str | None:
    token = message.get("position")
    if token is not None and not isinstance(token, str):
        raise BadRequest("'position' is a string", field="position")
    return token


def _token(message: dict[str, Any]) -> str:
    token = message.get("token")
    if not isinstance(token, str):
        raise BadRequest("'token' is a string", field="token")
    return token


def _snapshot(message: dict[str, Any]) -> bool:
    wanted = message.get("snapshot")
    if wanted is not None and not isinstance(wanted, bool):
        raise BadRequest("'snapshot' is true or false", field="snapshot")
    return bool(wanted)
