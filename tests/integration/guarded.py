"""Servers that judge, in this process, on a real PostgreSQL; and clients of them that read as slowly as a test says."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from typing import Any

from app.backend import open_backend
from app.clients.connection import Connection
from app.core.session import State
from app.model.claims import ANONYMOUS, Identity
from app.model.observations import Failed, Observation
from app.model.settings import Settings
from app.server import Server
from harness.database import Database
from harness.facts import eventually
from tests.support.stream import Stream
from tests.unit.memory_sink import MemorySink


def user(sub: str, **claims: object) -> Identity:
    return Identity(sub, {"sub": sub, **claims}, jti=claims.get("jti"), issued=claims.get("iat"))  # type: ignore[arg-type]


class Guest:
    """A client. All that was written to it counts as seen, whether it was taken or not."""

    def __init__(self, server: Server, identity: Identity = ANONYMOUS, name: str = "guest") -> None:
        self.sink = MemorySink()
        self.connection = Connection(self.sink, server.registry, identity)
        self.connection.open()
        self.name = name
        self._id = 0

    async def subscribe(self, *channels: str, position: str | None = None, snapshot: bool = False) -> dict[str, Any]:
        """The answer."""
        self._id += 1
        asked: dict[str, Any] = {"type": "subscribe", "id": self._id, "channels": channels, "snapshot": snapshot}
        if position is not None:
            asked["position"] = position
        await self.connection.receive(json.dumps(asked))
        return next(m for m in reversed(self.messages) if m.get("id") == self._id)

    @property
    def messages(self) -> list[dict[str, Any]]:
        return self.sink.messages

    @property
    def live(self) -> bool:
        return self.connection.session.state is State.LIVE

    def saw(self, text: str) -> bool:
        return any(text.encode() in message.json for message in self.sink.written)

    def lost(self, channel: str) -> bool:
        """Whether it was told that it may not have the channel any more."""
        told = [
            (m["type"], m.get("code"), m.get("channel") or m.get("channels"))
            for m in self.messages
            if m["type"] == "unsubscribed" or (m["type"] == "error" and m.get("code") == "forbidden" and "id" not in m)
        ]
        return any(
            pair == (("error", "forbidden", channel), ("unsubscribed", None, [channel])) for pair in pairwise(told)
        )

    @property
    def stream(self) -> Stream:
        """What it got, by the rules of the protocol."""
        made = Stream(self.name)
        made.connected()
        for message in self.messages:
            if message["type"] == "subscribed":
                made.asking(message["channels"], None)
            if message["type"] not in ("error", "snapshot"):
                made.feed(message)
        return made

    def close(self) -> None:
        self.connection.close()


@asynccontextmanager
async def serving(database: Database, *names: str, **settings: Any) -> AsyncIterator[list[Server]]:
    """So many servers that follow the database. No error that nobody foresaw may come."""
    seen: list[Observation] = []
    async with AsyncExitStack() as stack:
        servers = []
        for name in names:
            asked = Settings(database_url=database.url, server_id=name, rights=True, io_uring=False, **settings)
            backend = open_backend(asked, seen.append)
            stack.push_async_callback(backend.event_log.close)
            server = Server(asked, backend, await backend.event_log.head(), seen.append)
            stack.push_async_callback(server.stop)
            server.start()
            servers.append(server)
        await eventually(lambda: any(s.leadership.leading for s in servers), 20, "one of them leads")
        yield servers
    failures = [fact for fact in seen if isinstance(fact, Failed)]
    assert not failures, failures
