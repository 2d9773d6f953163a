"""Thousands of clients in a process of their own, as cheap as can be: `python -m tests.support.storm URL < orders`.

Each line of the orders is one client as JSON: {"channel", "position", "changes"}. All connect at once, every other one
by WebSocket; each has arrived when it got so many changes (it fails where it gets more, or a `reset`). At the end one
line of JSON is printed: how many arrived, when the last did, and what went wrong.
"""

import asyncio
import json
import resource
import sys
import time
from contextlib import suppress
from typing import Any
from urllib.parse import quote, urlsplit

from harness.facts import holds

MARK = b'"action":"'  # in every change, and nowhere else in what the storm's rows hold
RESET = b'"type":"reset"'
DEADLINE = 120.0
DIALS = 500  # connects in progress at once, so that the clients' own kernel queue is not what is measured


class Client(asyncio.Protocol):
    def __init__(self, storm: "Storm", order: dict[str, Any], socket: bool) -> None:
        self.storm, self.socket = storm, socket
        self.channel, self.position, self.left = order["channel"], order["position"], order["changes"]
        self.tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.storm.clients.append(self)
        query = f"?channel={quote(self.channel)}&position={quote(self.position)}"
        path = "/realtime/ws" if self.socket else f"/realtime/events{query}"
        upgrade = (
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        )
        transport.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n{upgrade if self.socket else ''}\r\n".encode())
        if self.socket:
            message = {"type": "subscribe", "channels": [self.channel], "position": self.position}
            text = json.dumps(message).encode()
            size = bytes([0x80 | len(text)]) if len(text) < 126 else b"\xfe" + len(text).to_bytes(2)
            transport.write(b"\x81" + size + b"\0\0\0\0" + text)

    def data_received(self, data: bytes) -> None:
        text = self.tail + data
        found = text.count(MARK)
        self.tail = text[-len(RESET) + 1 :].rpartition(MARK)[2]
        if RESET in text:
            self.storm.faults.append("reset")
        if found:
            self.left -= found
            if self.left <= 0:
                self.storm.arrived(self.left)

    def connection_lost(self, error: Exception | None) -> None:
        self.storm.faults.append(f"cut: {error}")


class Storm:
    def __init__(self, url: str, orders: list[dict[str, Any]]) -> None:
        self.host, self.port = urlsplit(url).hostname or "", urlsplit(url).port or 0
        self.orders = orders
        self.clients: list[Client] = []
        self.faults: list[str] = []
        self.count = 0
        self.done = asyncio.Event()

    def arrived(self, left: int) -> None:
        if left < 0:
            self.faults.append("more changes than are missing")
        else:
            self.count += 1
            self.last = time.monotonic()
            if self.count == len(self.orders):
                self.done.set()

    async def run(self) -> dict[str, Any]:
        began = self.last = time.monotonic()
        places = asyncio.Semaphore(DIALS)
        loop = asyncio.get_running_loop()

        async def dial(n: int, order: dict[str, Any]) -> None:
            async with places:
                await loop.create_connection(lambda: Client(self, order, n % 2 == 0), self.host, self.port)

        await asyncio.gather(*(dial(n, order) for n, order in enumerate(self.orders)))
        connected = time.monotonic()
        try:
            await asyncio.wait_for(self.done.wait(), DEADLINE)
        except TimeoutError:
            self.faults.append(f"only {self.count} arrived")
        with suppress(AssertionError):  # a fault is told below
            await holds(lambda: not self.faults, 0.5, "nothing comes too much")
        return {
            "arrived": self.count,
            "connected": connected - began,
            "seconds": self.last - began,
            "faults": sorted(set(self.faults)),
        }


async def main() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    orders = [json.loads(line) for line in sys.stdin]
    print(json.dumps(await Storm(sys.argv[1], orders).run()), flush=True)  # noqa: T201
    sys.stdin.close()


if __name__ == "__main__":
    asyncio.run(main())
