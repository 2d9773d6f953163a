"""One server in a world without chance, and clients that are asked step by step."""

from collections.abc import Callable
from random import Random

from harness.facts import turn
from tests.unit.client_model import Client, Link, Server
from tests.unit.log_model import World

TURNS = 3000  # of the loop, in which a fact must come true


class Stage:
    def __init__(self) -> None:
        self.world = World(Random(1))
        self.server = Server(self.world, 1 << 20)
        self.clients: list[Client] = []

    def client(self) -> Client:
        client = Client("client")
        client.connect(self.server)
        self.clients.append(client)
        return client

    async def commit(self, *, pull: bool = True, author: int = 1) -> int:
        """One transaction that inserts a post; its id."""
        writer = self.world.begin()
        key = writer.xid
        row = {"id": key, "author_id": author, "v": 0}
        self.world._log(writer, "posts", next(self.world._number), [(None, row)])
        self.world.commit(writer)
        if pull:
            await self.server.broadcaster.pull()
        return key

    async def commit_many(self, statements: int, *, author: int = 1, first: int = 1000) -> list[int]:
        """One transaction that inserts a post in each of so many statements; their ids."""
        writer, keys = self.world.begin(), list(range(first, first + statements))
        for key in keys:
            row = {"id": key, "author_id": author, "v": 0}
            self.world._log(writer, "posts", next(self.world._number), [(None, row)])
        self.world.commit(writer)
        await self.server.broadcaster.pull()
        return keys

    @property
    def token(self) -> str:
        token = self.server.broadcaster.point.token
        assert token is not None
        return token

    async def until(self, fact: Callable[[], object]) -> None:
        for _ in range(TURNS):
            if fact():
                return
            await turn()
        raise AssertionError(f"in vain: {[c.diary for c in self.clients]}")

    async def turns(self) -> None:
        for _ in range(200):
            await turn()


def link(client: Client) -> Link:
    assert client.link is not None
    return client.link


def keys(client: Client, channel: str = "posts") -> list[int]:
    return [change["key"]["id"] for change in client.stream.changes(channel)]


def joined(client: Client, *channels: str) -> Callable[[], bool]:
    return lambda: all(c in client.stream.joined for c in channels)
