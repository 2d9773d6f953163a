"""What one WebSocket client says: frames by wsproto, messages one after the other.

Invariants: messages are handled strictly in order, one at a time; who does not take the answers is not listened to;
what breaks the protocol of WebSocket ends the connection with its close code, which arrives although the rest of what
the peer sends is thrown away.
"""

import asyncio
from collections import deque
from contextlib import suppress
from typing import Final

from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto.utilities import RemoteProtocolError

from app import wire
from app.errors import CloseCode, RateLimited
from app.observe import ConnectionFailed, Failed, Observer, Refused
from app.web.clients import Clients
from app.web.ports import Client
from app.web.rate import Rate
from app.web.sinks import HIGH_WATER, WebSocketSink

QUEUE: Final = 4  # messages that wait; with more of them nothing is read
NO_CODE: Final = (1005, 1006)
NORMAL, PROTOCOL_ERROR = 1000, 1002
MASK: Final = 4  # bytes of it, behind a frame's size


class Talk:
    __slots__ = (
        "_client",
        "_clients",
        "_failed",
        "_frames",
        "_inbox",
        "_observe",
        "_rate",
        "_said",
        "_sink",
        "_size",
        "_task",
    )

    def __init__(self, sink: WebSocketSink, client: Client, clients: Clients, observe: Observer) -> None:
        self._sink = sink
        self._client = client
        self._clients = clients
        self._observe = observe
        self._rate = Rate()
        # Nearly always a client sends whole messages, and then nothing for long: only who does otherwise has a parser.
        self._frames: Connection | None = None
        self._said = ""  # of a message that goes on
        self._size = 0  # of it, in bytes
        self._inbox: deque[str | None] | None = None  # while there is a task; None in it is a binary message
        self._task: asyncio.Task[None] | None = None
        self._failed = False

    def left(self) -> None:
        """The client has gone."""
        if self._task is not None:
            self._task.cancel()
        self._client.close()
        self._clients.left(self._sink)

    def hear(self, data: bytes) -> None:
        if self._failed:
            return
        frames = self._frames or Connection(ConnectionType.SERVER)
        try:
            frames.receive_data(data)
            for event in frames.events():
                if not self._failed:
                    self._on(event, frames)
        except RemoteProtocolError as problem:
            hint = problem.event_hint
            self._fail(hint.code if isinstance(hint, CloseConnection) else PROTOCOL_ERROR, "protocol", str(problem))
        if self._frames is None and not whole(data):
            self._frames = frames

    def _on(self, event: Event, frames: Connection) -> None:
        match event:
            case TextMessage() | BytesMessage():
                self._gather(event)
            case Ping():
                self._sink.control(frames.send(event.response()))
            case CloseConnection():
                self._sink.shut(NORMAL if event.code in NO_CODE else event.code)
                self._sink.hang_up()

    def _gather(self, event: TextMessage | BytesMessage) -> None:
        text = event.data if isinstance(event, TextMessage) else None
        self._size += len(event.data if text is None else text.encode())
        if self._size > wire.INBOUND_BYTES:
            self._fail(CloseCode.TOO_LARGE, "too_large", f"a message may have {wire.INBOUND_BYTES} bytes")
            return
        self._said += text or ""
        if event.message_finished:
            said, self._said, self._size = self._said, "", 0
            self._put(said if text is not None else None)

    def _fail(self, code: int, reason: str, text: str) -> None:
        """A socket closed at once would answer what the peer still sends with a reset, which destroys the close frame:
        so that is thrown away unread, until the peer's own end or LINGER."""
        self._failed = True
        self._observe(ConnectionFailed("ws", reason))
        self._sink.shut(code, text)
        self._sink.finish()

    # Messages.

    def _put(self, text: str | None) -> None:
        if self._sink.closed:
            return
        if self._inbox is None:
            self._inbox = deque()
            self._task = asyncio.create_task(self._work(self._inbox))
        self._inbox.append(text)
        if len(self._inbox) > QUEUE:
            self._sink.listen(False)

    async def _work(self, inbox: "deque[str | None]") -> None:
        try:
            while inbox:
                if self._sink.backlog() > HIGH_WATER:
                    with suppress(ConnectionResetError):
                        await self._sink.drained()
                text = inbox.popleft()
                if not self._sink.closed:
                    await self._answer(text)
        except Exception as error:  # noqa: BLE001 - a bug must not leave a client waiting in silence
            self._observe(Failed("client", error))
            self._sink.close(CloseCode.RESTART, "the server failed")
        finally:
            self._task = self._inbox = None
        self._sink.listen(True)

    async def _answer(self, text: str | None) -> None:
        retry_after_ms = self._rate.take()
        if retry_after_ms:
            self._observe(Refused(RateLimited.code))
            problem = RateLimited("too many messages on this connection")
            self._sink.write([wire.error(problem, wire.request_id(text or ""), retry_after_ms=retry_after_ms)])
            if self._rate.exhausted:
                self._sink.close(CloseCode.TOO_MANY, "too many messages")
        elif text is None:
            self._client.bad_request("messages are text, not binary")
        else:
            await self._client.receive(text)


def whole(data: bytes) -> bool:
    """Whether this is whole frames of a client, the last of which ends a message (RFC 6455, 5.2)."""
    at, ended = 0, True
    while at + 2 <= len(data):
        if data[at] & 0x0F < 8:  # not a control frame, which may come in the midst of a message
            ended = bool(data[at] & 0x80)
        size, head = data[at + 1] & 0x7F, 2
        if size > 125:
            head = 4 if size == 126 else 10
            size = int.from_bytes(data[at + 2 : at + head])
        at += head + MASK + size
    return ended and at == len(data)
