"""A client's transport in memory, which takes what it is given for as long as there is room."""

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

from app.core import wire
from app.model.errors import CloseCode
from app.model.observations import Transport


class MemorySink:
    """`unsent` is the backlog in bytes; `drained` waits until it is 0 (`take`). What is written to a `slow` one is
    unsent. `closed` is the code of the end."""

    transport: Transport = "ws"
    direct = None
    rerouted: Callable[[], None] | None = None

    def __init__(self) -> None:
        self.written: list[wire.Message] = []
        self.unsent = 0
        self.slow = False
        self.closed: CloseCode | None = None
        self._moved = asyncio.Event()

    def write(self, messages: Sequence[wire.Message]) -> None:
        self.written += messages
        if self.slow:
            self.unsent += sum(message.size for message in messages)

    def write_rest(self, data: memoryview) -> None:
        raise AssertionError("nothing was sent of it")

    def backlog(self) -> int:
        return self.unsent

    def take(self) -> None:
        self.unsent = 0
        self._moved.set()

    async def drained(self) -> None:
        while self.unsent and self.closed is None:
            self._moved.clear()
            await self._moved.wait()
        if self.closed is not None:
            raise ConnectionResetError("gone")

    def close(self, code: CloseCode, reason: str) -> None:
        self.closed = code
        self._moved.set()

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(message.json) for message in self.written]

    @property
    def kinds(self) -> list[str]:
        return [message.kind for message in self.written]

    @property
    def keys(self) -> list[int]:
        """The key of each change that was written."""
        return [change["key"]["id"] for message in self.messages for change in message.get("changes", ())]
