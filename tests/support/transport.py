"""One way to open a client over either transport, and the verdict on what clients got: what most tests consist of."""

from dataclasses import dataclass

from harness.database import Database
from harness.server import Server
from tests.support.clients import Client, EventStreamClient, WebSocketClient
from tests.support.judge import judge, report
from tests.support.truth import Truth


@dataclass(frozen=True)
class Transport:
    kind: str  # "websocket" or "events"

    async def open(self, server: Server, *channels: str, position: str | None = None) -> Client:
        """A client that has been answered `subscribed` (or got its `reset`) for all the channels."""
        if self.kind == "websocket":
            client = await WebSocketClient(server.url).connect()
            answer = await client.subscribe(*channels, position=position)
            assert answer["type"] == "subscribed", answer
            return client
        events = await EventStreamClient(server.url, *channels, position=position).connect()
        assert events.status == 200, f"{events.status} {events.body}"
        await events.message("subscribed")
        return events


async def now(database: Database) -> str:
    """The position of everything that is committed."""
    position: str = await database.value("SELECT realtime.position()")
    return position


async def verdict(database: Database, *clients: Client, tables: tuple[str, ...] = ("posts",)) -> None:
    """Every client gets everything committed by now, and nothing that any of them ever got is wrong."""
    final = await now(database)
    for client in clients:
        await client.reach(final)
        assert not client.stream.errors, client.stream.errors
    async with await database.connect() as connection:
        truth = await Truth.read(connection, *tables)
    for client in clients:
        findings = judge(client.stream, truth, final=final)
        assert not findings, f"{client.stream.name}: {report(findings)}"
