"""A client that writes any bytes behind any handshake: frames whole, cut or broken, and ends of all kinds."""

import asyncio
import contextlib
import json
import socket
import struct
from typing import Any, ClassVar, Self

from tests.unit.house import House

HANDSHAKE = (
    b"GET /realtime/ws HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
STREAM = b"GET /realtime/events?channel=posts HTTP/1.1\r\nHost: x\r\n\r\n"
LIVEZ = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
Frame = tuple[int, bytes]


def frame(opcode: int, data: bytes = b"", *, fin: bool = True, reserved: int = 0, masked: bool = True) -> bytes:
    """One frame of a client (RFC 6455, 5.2), broken where that is asked for; the mask is 0."""
    head, mask = bytes([fin << 7 | reserved << 4 | opcode]), masked << 7
    if len(data) < 126:
        size = bytes([mask | len(data)])
    elif len(data) < 1 << 16:
        size = struct.pack("!BH", mask | 126, len(data))
    else:
        size = struct.pack("!BQ", mask | 127, len(data))
    return head + size + (bytes(4) if masked else b"") + data


def say(**message: Any) -> bytes:
    return frame(TEXT, json.dumps(message).encode())


class Raw:
    made: ClassVar["list[Raw]"] = []

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, house: House, data: bytes = b"") -> Self:
        raw = cls(*await asyncio.open_connection("127.0.0.1", house.server.port))
        cls.made.append(raw)
        raw.writer.write(data)
        return raw

    @classmethod
    async def all_gone(cls) -> None:
        """Close every client that is still there."""
        for raw in cls.made:
            raw.writer.transport.abort()
        await asyncio.gather(*(raw.writer.wait_closed() for raw in cls.made), return_exceptions=True)
        cls.made.clear()

    async def head(self) -> bytes:
        async with asyncio.timeout(10):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def frame(self) -> Frame:
        async with asyncio.timeout(10):
            opcode, size = await self.reader.readexactly(2)
            if size > 125:
                size = int.from_bytes(await self.reader.readexactly(2 if size == 126 else 8))
            return opcode & 0x0F, await self.reader.readexactly(size)

    async def frames(self) -> list[Frame]:
        """All, up to the end of the stream."""
        found = []
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                found.append(await self.frame())
        return found

    async def until(self, kind: str) -> dict[str, Any]:
        """The next message of this type."""
        while True:
            _, data = await self.frame()
            message: dict[str, Any] = json.loads(data)
            if message["type"] == kind:
                return message

    def reset(self) -> None:
        """Vanish as a process does that is killed with something unread."""
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()
