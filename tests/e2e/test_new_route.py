"""A route is good from the moment that `realtime.watch` has committed: no client is refused because a server lags."""

from harness.database import Database
from harness.server import Server
from tests.support.clients import WebSocketClient


async def test_a_route_can_be_subscribed_as_soon_as_it_is_declared(database: Database, server: Server) -> None:
    await database.execute("CREATE TABLE lots (id int PRIMARY KEY, a int, b int, c int); SELECT realtime.watch('lots')")
    async with WebSocketClient(server.url) as client:
        assert (await client.subscribe("lots"))["type"] == "subscribed"
        for columns in ("a", "b", "c"):
            await database.execute("SELECT realtime.watch('lots', ARRAY[%s])", columns)
            answer = await client.subscribe(f"lots:{columns}=1")
            assert answer["type"] == "subscribed", answer
