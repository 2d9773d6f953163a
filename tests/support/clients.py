"""Clients as strangers would write them, over both transports, that keep everything that they received.

Invariants: what is applied goes through `Stream` (the protocol's rules); a client may be cut at any byte, and comes
back, to any server, as the protocol says; the event-stream client comes back with the last `id:` that it saw, as a
browser does.
"""

import asyncio
import itertools
import json
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

import aiohttp

from harness.facts import eventually
from tests.support import token
from tests.support.eventstream import Event, EventParser
from tests.support.stream import Change, Message, Stream, loads

ANSWER_SECONDS = 15.0


class Client:
    """What both transports share: a stream, the raw messages of each connection, and waiting for what comes."""

    def __init__(self, url: str, name: str = "client") -> None:
        self.url, self.stream = url, Stream(name)
        self.messages: list[Message] = []
        self.raw: list[str] = []
        self.arrivals: list[float] = []  # time.perf_counter() of each message
        self.ended = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None

    async def connect(self, url: str = "") -> Self:
        raise AssertionError("a transport's own")

    def _receive(self, text: str) -> Message:
        message: Message = loads(text)
        self.arrivals.append(time.perf_counter())
        self.raw.append(text)
        self.messages.append(message)
        self.stream.feed(message)
        return message

    async def until(self, fact: Callable[[], object], timeout: float = 10.0, what: str = "") -> None:
        await eventually(lambda: bool(fact()), timeout, f"{self.stream.name}: {what or 'a fact'}; {self._state()}")

    def _state(self) -> str:
        return f"last messages {[text[:300] for text in self.raw[-3:]]}"

    async def changes(self, count: int, channel: str | None = None, timeout: float = 10.0) -> list[Change]:
        """The applied changes, once there are at least `count`."""
        await self.until(lambda: self.stream.count(channel) >= count, timeout, f"{count} changes")
        return self.stream.changes(channel)

    async def reach(self, position: str, timeout: float = 20.0) -> None:
        """Waits until the client's own position contains `position`."""
        goal = token.read(position)
        await self.until(
            lambda: self.stream.position and token.read(self.stream.position).contains(goal),
            timeout,
            f"position {position}, at {self.stream.position}",
        )

    async def message(self, kind: str, timeout: float = 10.0, after: int = 0) -> Message:
        """The first message of a type, from the `after`-th message on."""

        def found() -> list[Message]:
            return [m for m in self.messages[after:] if m["type"] == kind]

        await self.until(found, timeout, f"a message of type {kind}")
        return found()[0]

    async def reconnect(self, url: str = "") -> None:
        await self.abort()
        await self.connect(url)

    async def abort(self) -> None:
        raise AssertionError("a transport's own")

    async def _over(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            with suppress(asyncio.CancelledError):
                await self._reader
            self._reader = None
            self.stream.cut()

    async def __aenter__(self) -> Self:
        return self if self._reader is not None else await self.connect()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.abort()


def same(one: str, other: str | None) -> bool:
    """Whether two tokens are one position (they may have been minted at different times)."""
    return other is not None and replace(token.read(one), strict=True) == replace(token.read(other), strict=True)


class WebSocketClient(Client):
    def __init__(self, url: str, name: str = "websocket") -> None:
        super().__init__(url, name)
        self.close_code: int | None = None
        self._session: aiohttp.ClientSession | None = None
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Message]] = {}

    @property
    def socket(self) -> aiohttp.ClientWebSocketResponse:
        assert self._socket is not None, "not connected"
        return self._socket

    async def connect(self, url: str = "") -> Self:
        """Opens, and asks again for whatever the stream had."""
        self.url = url or self.url
        self.ended = asyncio.Event()
        self._session = aiohttp.ClientSession()
        self._socket = await self._session.ws_connect(
            self.url + "/realtime/ws", max_msg_size=0, timeout=aiohttp.ClientWSTimeout(ws_close=2)
        )
        self.stream.connected()
        self._reader = asyncio.create_task(self._read())
        for channels, position in self.stream.wanted():
            await self._ask_for(channels, position)
        return self

    async def _read(self) -> None:
        async for frame in self.socket:
            if frame.type is aiohttp.WSMsgType.TEXT:
                message = self._receive(frame.data)
                waiting = self._answers.pop(message.get("id", -1), None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(message)
            else:
                self.stream.faults.append(f"a frame of type {frame.type}")
        self.close_code = self.socket.close_code
        self.ended.set()

    async def send(self, message: Message | str | bytes) -> None:
        if isinstance(message, bytes):
            await self.socket.send_bytes(message)
        else:
            await self.socket.send_str(message if isinstance(message, str) else json.dumps(message))

    async def ask(self, message: Message) -> asyncio.Future[Message]:
        """Sends with a fresh id; the future is its answer, `subscribed` or `error` or whatever bears the id."""
        number = next(self._ids)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self.send(message | {"id": number})
        return answer

    async def _ask_for(self, channels: list[str], position: str | None) -> asyncio.Future[Message]:
        self.stream.asking(channels, position)
        more: dict[str, Any] = {} if position is None else {"position": position}
        return await self.ask({"type": "subscribe", "channels": channels, **more})

    async def subscribe(self, *channels: str, position: str | None = None) -> Message:
        answer = await asyncio.wait_for(await self._ask_for(list(channels), position), ANSWER_SECONDS)
        if answer["type"] == "error":
            for channel in channels:
                self.stream.pending.pop(channel, None)
        return answer

    async def unsubscribe(self, *channels: str) -> Message:
        return await asyncio.wait_for(
            await self.ask({"type": "unsubscribe", "channels": list(channels)}), ANSWER_SECONDS
        )

    async def abort(self) -> None:
        """Resets the connection: what is on its way is gone, both ways."""
        await self._over()
        self._answers.clear()
        if self._socket is not None and not self._socket.closed:
            end = self._socket.get_extra_info("socket")
            if end is not None:
                with suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    end.shutdown(socket.SHUT_RDWR)
            await self._socket.close()
        if self._session is not None:
            await self._session.close()


class EventStreamClient(Client):
    """A raw socket, so that every byte of the stream is seen. `channels` are those of the URL."""

    def __init__(self, url: str, *channels: str, position: str | None = None, name: str = "events") -> None:
        super().__init__(url, name)
        self.channels, self.asked = channels, position
        self.last_event_id: str | None = None
        self.status, self.headers, self.body = 0, dict[str, str](), ""
        self.retry: int | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def connect(self, url: str = "") -> Self:
        self.url = url or self.url
        self.ended = asyncio.Event()
        target = urlsplit(self.url)
        reader, self._writer = await asyncio.open_connection(target.hostname, target.port, limit=1 << 26)
        self.stream.connected()
        self.stream.asking(self.channels, self.asked)
        self._writer.write(self._request(target.netloc).encode())
        await self._head(reader)
        self._reader = asyncio.create_task(self._read(reader))
        return self

    def _request(self, host: str) -> str:
        query = [("channel", channel) for channel in self.channels]
        if self.asked is not None:
            query.append(("position", self.asked))
        lines = [f"GET /realtime/events?{urlencode(query)} HTTP/1.1", f"Host: {host}", "Accept: text/event-stream"]
        if self.last_event_id is not None:
            lines.append(f"Last-Event-ID: {self.last_event_id}")
        return "\r\n".join([*lines, "", ""])

    async def _head(self, reader: asyncio.StreamReader) -> None:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        self.status = int(lines[0].split()[1])
        self.headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:] if line)}

    async def _read(self, reader: asyncio.StreamReader) -> None:
        parser = EventParser()
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while data := await self._body(reader):
                if self.status != 200:
                    self.body += data.decode()
                    continue
                for event in parser.feed(data):
                    self._event(event)
        self.ended.set()

    async def _body(self, reader: asyncio.StreamReader) -> bytes:
        """The next bytes of the body, chunked or counted or plain; none at its end."""
        if "content-length" in self.headers:
            return await reader.readexactly(int(self.headers["content-length"])) if not self.body else b""
        if self.headers.get("transfer-encoding") != "chunked":
            return await reader.read(65536)
        size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
        data = await reader.readexactly(size)
        await reader.readexactly(2)
        return data

    def _event(self, event: Event) -> None:
        if event.event is not None:
            self.stream.faults.append(f"an `event:` field, which no onmessage would see: {event.event}")
        if event.retry is not None:
            self.retry = int(event.retry)
        if event.id is not None:
            self.last_event_id = event.id
        if event.data:
            self._check_id(event, self._receive(event.data))

    def _check_id(self, event: Event, message: Message) -> None:
        if "\n" in event.data:
            self.stream.faults.append("a message in several `data:` lines")
        if message["type"] == "subscribed":
            # A browser keeps every id that it sees: this one must not move a client that had a position.
            if event.id is not None and not same(event.id, self.stream.position):
                self.stream.faults.append(f"`id:` of subscribed is {event.id}, the client's is {self.stream.position}")
        elif event.id != message.get("position"):
            self.stream.faults.append(f"`id:` is {event.id}, the position {message.get('position')}")

    async def abort(self) -> None:
        await self._over()
        if self._writer is not None:
            self._writer.transport.abort()
            self._writer = None
