"""What one WebSocket client says: frames by wsproto, messages one after the other.

Invariants
- Messages are handled strictly in order, one at a time.
- A client that does not take its answers is not read from.
- A client that sends many small frames does not hold up the others.
- What breaks the protocol of WebSocket ends the connection with its close code. The code arrives although what the peer
  still sends is thrown away.
- What a client said before its own Close is answered first, unless that takes longer than PATIENCE.
"""

import asyncio
from collections import deque
from contextlib import suppress
from typing import Final

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage

from app.core import wire
from app.model.errors import CloseCode, RateLimited
from app.model.observations import ConnectionFailed, Failed, Limited, Observer, Refused
from app.web.clients import Clients
from app.web.ports import Client
from app.web.rate import Rate
from app.web.sinks import HIGH_WATER, WebSocketSink

QUEUE: Final = 4  # messages that wait; with more of them nothing is read
FRAMES: Final = 32  # that one client has read in one turn of the event loop: 256 kB may be 40,000 of them
PONG: Final = b"\x8a\x80"  # the beginning of an empty one, as clients send it; its mask follows
PONG_BYTES: Final = 6
NO_CODE: Final = 1005
NORMAL: Final = 1000
MASK: Final = 4  # bytes of it, behind a frame's size

PATIENCE: Final = 1.0  # seconds that a client's Close waits for the answers to what came before it

Said = str | bytes | int | None  # a message, a pong that waits until it can be sent, a Close, or a binary message


class Talk:
    __slots__ = (
        "_client",
        "_clients",
        "_deaf",
        "_frames",
        "_inbox",
        "_observe",
        "_rate",
        "_said",
        "_sink",
        "_size",
        "_stopped",
        "_task",
    )

    def __init__(self, sink: WebSocketSink, client: Client, clients: Clients, observe: Observer) -> None:
        self._sink = sink
        self._client = client
        self._clients = clients
        self._observe = observe
        self._rate = Rate()
        # Nearly always a client sends whole messages, and then nothing for long. Only a client that does otherwise
        # keeps a parser.
        self._frames: Connection | None = None
        self._said = ""  # of a message that goes on
        self._size = 0  # of it, in bytes
        self._inbox: deque[Said] | None = None  # while there is a task
        self._task: asyncio.Task[None] | None = None
        self._stopped = False  # nothing is read until the inbox is empty
        self._deaf = False  # what comes is thrown away

    def left(self) -> None:
        """The client has gone."""
        self._deaf = True
        if self._task is not None:
            self._task.cancel()
        self._client.close()
        self._clients.leave(self._sink)

    def hear(self, data: bytes) -> None:
        """Take what the client sent; where that is a lot, the rest of it in later turns of the event loop."""
        if data[:2] == PONG and len(data) == PONG_BYTES and self._frames is None:
            return  # the answer to our ping, by itself: by far the most that most clients ever say
        if not self._deaf:
            frames = self._frames or Connection(ConnectionType.SERVER)
            frames.receive_data(data)
            if not self._read(frames) or (self._frames is None and not whole(data)):
                self._frames = frames

    def _read(self, frames: Connection) -> bool:
        """Handle FRAMES frames at most. True where no more were there; otherwise the rest is read later."""
        for read, event in enumerate(frames.events(), 1):
            self._on(event, frames)
            if self._deaf:
                return True
            self._stopped = self._inbox is not None and len(self._inbox) > QUEUE
            if self._stopped or read == FRAMES:
                self._sink.listen(False)
                if not self._stopped:
                    asyncio.get_running_loop().call_soon(self._go_on)
                return False
        return True

    def _go_on(self) -> None:
        self._stopped = False
        self._sink.listen(True)
        self.hear(b"")

    def _on(self, event: Event, frames: Connection) -> None:
        match event:
            case TextMessage() | BytesMessage():
                self._gather(event)
            case Ping():
                pong = frames.send(event.response())
                if self._sink.backlog() > HIGH_WATER:
                    self._put(pong)
                else:
                    self._sink.control(pong)
            case CloseConnection() if frames.state is ConnectionState.OPEN:  # wsproto says so, and not the client
                self._fail(event.code, "protocol", event.reason or "")
            case CloseConnection():
                self._deaf = True
                code = NORMAL if event.code == NO_CODE else event.code
                if self._inbox is None:
                    self._part(code)
                else:
                    self._put(code)
                    asyncio.get_running_loop().call_later(PATIENCE, self._part, code)

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

    def _part(self, code: int) -> None:
        """Answer the client's Close, and close the socket."""
        if not self._sink.closed and not self._sink.peer.lost:
            self._sink.shut(code)
            self._sink.hang_up()

    def _fail(self, code: int, reason: str, text: str) -> None:
        """End the connection with this close code.

        A socket that is closed at once answers what the peer still sends with a reset, which destroys the close frame.
        So what comes is thrown away, until the peer ends its side or LINGER is over."""
        self._deaf = True
        self._observe(ConnectionFailed("ws", reason))
        self._sink.shut(code, text)
        self._sink.finish()

    # Messages.

    def _put(self, said: Said) -> None:
        if self._sink.closed:
            return
        if self._inbox is None:
            self._inbox = deque()
            self._task = asyncio.create_task(self._work(self._inbox))
        self._inbox.append(said)

    async def _work(self, inbox: "deque[Said]") -> None:
        try:
            while inbox:
                if self._sink.backlog() > HIGH_WATER:
                    with suppress(ConnectionResetError):
                        await self._sink.drained()
                said = inbox.popleft()
                if isinstance(said, int):
                    self._part(said)
                elif isinstance(said, bytes):
                    self._sink.control(said)
                elif not self._sink.closed:
                    await self._answer(said)
        except Exception as error:  # noqa: BLE001 - a bug must not leave a client waiting in silence
            self._observe(Failed("client", error))
            self._sink.close(CloseCode.RESTART, "the server failed")
        finally:
            self._task = self._inbox = None
        if self._stopped:
            self._go_on()

    async def _answer(self, text: str | None) -> None:
        retry_after_ms = self._rate.take()
        if retry_after_ms:
            self._observe(Limited("message"))
            self._refuse(text, RateLimited("too many messages on this connection", retry_after_ms))
        elif text is None:
            self._client.bad_request("messages are text, not binary")
        else:
            try:
                await self._client.receive(text)
            except RateLimited as problem:
                self._rate.refuse()
                self._refuse(text, problem)

    def _refuse(self, text: str | None, problem: RateLimited) -> None:
        self._observe(Refused(problem.code))
        self._sink.write([wire.error(problem, wire.request_id(text or ""))])
        if self._rate.exhausted:
            self._sink.close(CloseCode.TOO_MANY, "too many messages")


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
