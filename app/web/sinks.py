"""One client's transport, written past aiohttp: ready-made frames go to the socket itself or, where the kernel does not
take them all, to asyncio's transport.

asyncio's transport copies what it keeps. So it gets large data a piece at a time, and a thousand slow clients that wait
for the same bytes share them.

Invariants
- `direct` is a socket only while nothing is unsent.
- `write` never blocks and never raises.
- After `close` nothing but the end of the stream is written.
- A peer that does not take that end within LINGER seconds, or acknowledges nothing for PEER_TIMEOUT, is cut off.
"""

import asyncio
import socket
import struct
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from aiohttp import web

from app.core.wire import Message, chunks, frames
from app.model.errors import CloseCode
from app.model.observations import Transport
from app.web.peer import Peer

LINGER: Final = 5.0  # seconds for a peer to take the end of its stream
# Seconds without an acknowledgement, or with a receive window that stays shut. Heartbeats make sure that there is
# something to acknowledge. A client that frees no window in this time does not read.
PEER_TIMEOUT: Final = 180.0
HIGH_WATER: Final = 64 << 10  # bytes of backlog above which `drained` waits
LOW_WATER: Final = 16 << 10  # bytes of backlog at which it returns
PIECE: Final = 128 << 10  # bytes that asyncio's transport gets at once: two messages to a client that is fed
PING: Final = b"\x89\x00"  # a whole frame with no data
_RETRY: Final = b"retry: %d\n\n"


class _Sink(ABC):
    """What both transports have in common; subclasses say how messages and the end look on the wire."""

    __slots__ = ("_raw", "_socket", "_waiting", "address", "code", "direct", "peer", "rerouted", "since")
    transport: Transport

    def __init__(self, request: web.Request) -> None:
        if request.transport is None:
            raise ConnectionResetError("the client has gone")
        self._socket = request.transport
        self._raw = _raw_socket(request.transport)
        self.direct: socket.socket | None = None
        self.rerouted: Callable[[], None] | None = None
        self.peer = Peer()
        self.address: bytes | None = None  # that this client is counted for (app.web.crowds)
        self.since = time.monotonic()
        self.code: int | None = None  # the close code, once the stream has an end
        self._waiting: deque[memoryview | Callable[[], None]] | None = None  # bytes, and what is to be done after them
        self._socket.set_write_buffer_limits(high=HIGH_WATER, low=LOW_WATER)
        _cut_dead_peers(self._socket)

    @property
    def closed(self) -> bool:
        return self.code is not None

    @abstractmethod
    def write(self, messages: Sequence[Message]) -> None: ...

    def write_rest(self, data: memoryview) -> None:
        """Write the bytes of a message whose beginning the socket took."""
        self._send(data)

    def backlog(self) -> int:
        """Bytes that the kernel has not taken yet."""
        waiting = sum(len(data) for data in self._waiting or () if isinstance(data, memoryview))
        return self._socket.get_write_buffer_size() + waiting

    async def drained(self) -> None:
        """Wait until the backlog, once above HIGH_WATER, is down to LOW_WATER.

        Raises ConnectionResetError where nothing more will be taken: the client has gone, or the stream has its end.
        """
        await self.peer.drained()
        if self.closed or self._socket.is_closing():
            raise ConnectionResetError("the stream has ended")

    def close(self, code: CloseCode, reason: str) -> None:
        self.shut(code, reason)

    def shut(self, code: int, reason: str = "") -> None:
        """End the stream in order; whatever the peer does, the socket is gone after LINGER seconds. Idempotent."""
        if self.closed:
            return
        self.code = code
        self._route(None)
        asyncio.get_running_loop().call_later(LINGER, self._cut_off)
        self._end(code, reason)

    def _cut_off(self) -> None:
        if not self.peer.lost:  # asyncio may fail where the backlog went out after a close
            self._socket.abort()

    @abstractmethod
    def _end(self, code: int, reason: str) -> None: ...

    def _send(self, data: bytes | memoryview) -> None:
        """Write by way of asyncio's transport, which keeps what the kernel does not take at once."""
        if self._waiting is not None:
            self._waiting.append(memoryview(data))
        elif self._socket.is_closing():
            self._route(None)  # for good: these bytes are lost, and nothing may come after them
        elif len(data) > PIECE and self.peer.open:
            self._waiting = deque([memoryview(data)])
            self.peer.more = self._give_more
            self._give_more()
        else:
            self._socket.write(data)
            self._reroute()

    def _then(self, act: Callable[[], None]) -> None:
        """Do this when all that was sent before is with asyncio's transport."""
        if self._waiting is not None:
            self._waiting.append(act)
        elif not self._socket.is_closing():
            act()

    def _give_more(self) -> None:
        """Give asyncio's transport of what waits as much as it wants."""
        waiting = self._waiting
        assert waiting is not None
        while waiting and not self.peer.full and not self._socket.is_closing():
            first = waiting.popleft()
            if not isinstance(first, memoryview):
                # Not now: asyncio, which may be asking in the midst of a write, would end a closed transport twice.
                asyncio.get_running_loop().call_soon(first)
                continue
            self._socket.write(first[:PIECE])
            if len(first) > PIECE:
                waiting.appendleft(first[PIECE:])
        if not waiting or self._socket.is_closing():
            self._waiting = self.peer.more = None
        self._reroute()

    def _reroute(self) -> None:
        free = self._waiting is None and not self._socket.get_write_buffer_size()
        self._route(self._raw if free and self.peer.open and self.code is None else None)

    def _route(self, direct: socket.socket | None) -> None:
        if direct is not self.direct:
            self.direct = direct
            if self.rerouted is not None:
                self.rerouted()


class WebSocketSink(_Sink):
    __slots__ = ()
    transport: Transport = "ws"

    def write(self, messages: Sequence[Message]) -> None:
        if self.code is None:
            self._send(frames(messages))

    def control(self, frame: bytes) -> None:
        """A frame of the WebSocket protocol itself."""
        if not self.closed:
            self._send(frame)

    def ping(self) -> None:
        """Have the client say something: some proxies end what flows one way only."""
        self.control(PING)

    def _end(self, code: int, reason: str) -> None:
        # 1005 and 1006 mean that there was no code: they must never be on the wire (RFC 6455, 7.4.1).
        payload = b"" if code in (1005, 1006) else struct.pack("!H", code) + _cut(reason, 123)
        self._send(struct.pack("!BB", 0x88, len(payload)) + payload)

    def hang_up(self) -> None:
        """Close the socket: both ends have sent their close frame."""
        self._then(self._socket.close)

    def finish(self) -> None:
        """Tell the peer's kernel that nothing more is written; what still comes is not read."""
        if self._socket.can_write_eof():
            self._then(self._socket.write_eof)

    def listen(self, wanted: bool) -> None:
        """Whether to read what the client sends."""
        if wanted:
            self._socket.resume_reading()
        else:
            self._socket.pause_reading()


class EventSink(_Sink):
    """Keeps what is written before the response has begun, because until then there may be an error and no stream.

    History waits for `drained`, which waits for the beginning. So only a few messages are ever kept.
    """

    __slots__ = ("_chunked", "_early")
    transport: Transport = "sse"

    def __init__(self, request: web.Request) -> None:
        super().__init__(request)
        self._chunked = request.version >= (1, 1)
        if not self._chunked:
            self._raw = None
        self._early: list[bytes] | None = []

    def begin(self, retry_ms: int) -> None:
        """The head is out: send the time to wait before a reconnect, and what was written early."""
        early, self._early = self._early or [], None
        self.retry(retry_ms)
        self._send(b"".join(early))
        if self.closed:
            self._write_end()

    def retry(self, ms: int) -> None:
        """Say how long to wait before a reconnect."""
        if self._early is None:
            line = _RETRY % ms
            self._send(b"%x\r\n%s\r\n" % (len(line), line) if self._chunked else line)

    def write(self, messages: Sequence[Message]) -> None:
        if self.code is None:
            data = chunks(messages) if self._chunked else b"".join([m.event for m in messages])
            if self._early is None:
                self._send(data)
            else:
                self._early.append(data)

    def _end(self, code: int, reason: str) -> None:
        if self._early is None:
            self._write_end()

    def _write_end(self) -> None:
        if self._chunked:
            self._send(b"0\r\n\r\n")
        self._then(self._socket.close)


def _raw_socket(transport: asyncio.Transport) -> socket.socket | None:
    """The socket below a transport, whose own writing is a third of a delivery (docs/decisions/0009). None where there
    is more to do than to send (TLS), and on another event loop than asyncio's."""
    sock = getattr(transport.get_extra_info("socket"), "_sock", None)
    return sock if type(sock) is socket.socket and not transport.get_extra_info("sslcontext") else None


def _cut(text: str, limit: int) -> bytes:
    """At most `limit` bytes of UTF-8, whole characters."""
    return text.encode()[:limit].decode(errors="ignore").encode()


def _cut_dead_peers(transport: asyncio.Transport) -> None:
    """Have the kernel end a connection whose peer is silent; without it a vanished client stays for a quarter hour.

    A timer for each client in this process would cost more, and would end slow readers that are alive.
    """
    sock = transport.get_extra_info("socket")
    if sock is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(PEER_TIMEOUT * 1000))
