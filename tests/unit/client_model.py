"""Clients as the protocol describes them, on the real connections of several servers: they stall, vanish and come back.

A client's record is a `tests.support.stream.Stream`; what a stalled client has not taken when it vanishes it never saw.
"""

import asyncio
import json
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from app.clients.connection import Connection
from app.clients.registry import Registry
from app.core import wire
from app.core.hub import Hub
from app.model.change import Batch
from app.model.claims import ANONYMOUS
from app.model.errors import CloseCode, DatabaseAway
from app.model.observations import Failed, Lagging, Observation, Transport
from app.stream.broadcaster import Broadcaster
from app.stream.follower import Follower
from app.stream.lookup import Lookup
from app.stream.ports import PolicyReader
from app.stream.rights import Judged
from tests.support.stream import Stream
from tests.unit.log_model import World

CHANNELS = ["posts", "notes", "posts:author_id=1", "posts:author_id=2", "notes:user_id=1", "posts:id=5", "notes:id=7"]
DRAINED = 400  # bytes of backlog with which history goes on


class Server:
    """One server's broadcaster and connections; `inbox` holds the batches that the bus has for it."""

    def __init__(self, world: World, history_bytes: int, policies: PolicyReader | None = None) -> None:
        self.world = world
        self.inbox: list[Batch] = []
        self.peers: list[Server] = []
        self.failures: list[Failed] = []
        self.lagging = 0
        self.broadcaster = Broadcaster(world, Hub(), world.start(), history_bytes, self._observe, self._publish)
        self.lookup = Lookup(self.broadcaster, world, None)
        self.follower = Follower(self.broadcaster, self._depose, self._observe)
        rights = Judged(self.broadcaster, world, policies, self._observe) if policies is not None else None
        self.registry = Registry(self.lookup, self._observe, server_id="s", version="0", heartbeat=0, rights=rights)

    def _observe(self, seen: Observation) -> None:
        if isinstance(seen, Failed):
            self.failures.append(seen)
        if isinstance(seen, Lagging):
            self.lagging += seen.delta

    async def _publish(self, batch: Batch) -> None:
        for peer in self.peers:
            if self.world.random.random() < 0.7:
                peer.inbox.append(batch)

    async def _depose(self, silent_seconds: float) -> None:
        raise AssertionError("nobody runs the follower here, so nobody is deposed")

    async def pull(self) -> None:
        try:
            await self.broadcaster.pull()
        except DatabaseAway:
            pass

    def hear(self) -> None:
        """A batch of another server: lost, repeated or out of order, as a bus may have it."""
        if self.inbox:
            batch = self.world.random.choice(self.inbox)
            if self.world.random.random() < 0.7:
                self.inbox.remove(batch)
            self.follower.batch(batch)

    def spotless(self) -> bool:
        """Nothing is left of clients that have gone."""
        hub = self.broadcaster.hub
        return not (hub._channels or hub._topics or len(self.registry) or self.lagging or self.failures)


class Numbered(Connection):
    """Hashes by number, so that a seed gives the same order of sets in each run."""

    _made = 0

    def __init__(self, sink: "Link", registry: Registry) -> None:
        super().__init__(sink, registry, sink.client.identity)
        Numbered._made += 1
        self._n = Numbered._made

    def __hash__(self) -> int:
        return self._n


class Link:
    """A transport and what its web handler does. `taken` is called with what the client has really received."""

    transport: Transport = "ws"
    direct = None
    rerouted: Callable[[], None] | None = None

    def __init__(self, client: "Client", server: Server) -> None:
        self.client = client
        self.server = server
        self.closed = False
        self.stalled = False
        self._waiting: deque[wire.Message] = deque()
        self._moved = asyncio.Event()
        self._commands: asyncio.Queue[str | None] = asyncio.Queue()
        self.connection = Numbered(self, server.registry)
        self.task = asyncio.create_task(self._handle())

    async def _handle(self) -> None:
        try:
            self.connection.open()
            while (text := await self._commands.get()) is not None and not self.closed:
                await self.connection.receive(text)
        finally:
            self.connection.close()

    def command(self, **message: object) -> None:
        self._commands.put_nowait(json.dumps(message))

    def write(self, messages: Sequence[wire.Message]) -> None:
        if not self.closed:
            self._waiting.extend(messages)
            if not self.stalled:
                self.take(len(self._waiting))

    def write_rest(self, data: memoryview) -> None:
        raise AssertionError("nothing was sent of it")

    def take(self, messages: int) -> None:
        while self._waiting and messages > 0 and not self.closed:
            messages -= 1
            self.client.receive(json.loads(self._waiting.popleft().json))
        self._moved.set()

    def stall(self, stalled: bool) -> None:
        self.stalled = stalled
        if not stalled:
            self.take(len(self._waiting))

    def backlog(self) -> int:
        return sum(len(m.json) for m in self._waiting)

    async def drained(self) -> None:
        while self.backlog() > DRAINED and not self.closed:
            self._moved.clear()
            await self._moved.wait()
        await self.server.world.pause(2)
        if self.closed:
            raise ConnectionResetError("gone")

    def close(self, code: CloseCode, reason: str) -> None:
        self.end()

    def end(self, *, cancel: bool = False) -> None:
        self.closed = True
        self._moved.set()
        self._commands.put_nowait(None)
        if cancel:
            self.task.cancel()


class Client:
    def __init__(self, name: str) -> None:
        self.stream = Stream(name)
        self.link: Link | None = None
        self.tokens: list[str] = []
        self.refused: list[str] = []
        self.identity = ANONYMOUS
        self.diary: list[str] = []  # for whoever reads a failure
        self.links: list[Link] = []
        self._asked: dict[int, tuple[list[str], str | None]] = {}
        self._id = 0

    @property
    def connected(self) -> bool:
        return self.link is not None and not self.link.closed

    def connect(self, server: Server) -> None:
        self.diary.append("connects")
        self.link = Link(self, server)
        self.links.append(self.link)
        self.stream.connected()
        for channels, position in self.stream.wanted():
            self.ask(channels, position)

    def cut(self, *, cancel: bool = False) -> None:
        self.diary.append("is cut")
        if self.link is not None:
            self.link.end(cancel=cancel)
            self.link = None
            self.stream.cut()

    def subscribe(self, channels: list[str], position: str | None) -> None:
        """Channels that the client does not have; those that it had may begin again anywhere."""
        self.stream.asking(channels, position)
        self.ask(channels, position)

    def ask(self, channels: list[str], position: str | None) -> None:
        assert self.link is not None
        self._id += 1
        self._asked[self._id] = (channels, position)
        self.diary.append(f"asks for {channels} at {position}")
        self.link.command(type="subscribe", id=self._id, channels=channels, position=position)

    def unsubscribe(self, channel: str) -> None:
        assert self.link is not None
        self.diary.append(f"leaves {channel}")
        self.link.command(type="unsubscribe", channels=[channel])

    def receive(self, message: dict[str, Any]) -> None:
        told = [f"{c['channel']} {c['id']} tx {c['tx']}" for c in message.get("changes", ())]
        self.diary.append(f"gets {message | {'changes': told} if told else message}")
        if message["type"] == "error" and "id" in message:
            self._refused(message)
        elif message["type"] != "error":
            self.stream.feed(message)
        if "position" in message:
            self.tokens.append(message["position"])

    def _refused(self, message: dict[str, Any]) -> None:
        channels, position = self._asked.pop(message["id"])
        if message["code"] == "unavailable":
            assert self.link is not None
            self.link.end()  # and comes back
        elif len(channels) > 1:
            for channel in channels:
                self.stream.pending[channel] = position
                self.ask([channel], position)
        else:
            self.refused.append(message["message"])
            self.stream.pending.pop(channels[0], None)
            if channels[0] in self.stream.open:
                self.stream.done.append(self.stream.open.pop(channels[0]))
