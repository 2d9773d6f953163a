"""Clients that ask for many rows and take none: the server's memory while they are there, and after they left."""

import asyncio
import socket
from contextlib import ExitStack
from typing import Any

from bench.blocks import Table
from bench.stage import Stage, say
from bench.stats import number
from bench.system import rss
from harness.facts import eventually
from harness.server import Server

Data = dict[str, Any]
CLIENTS = 24
MEGABYTES = 60  # of rows, as JSON
BUDGET = "256MB"
FILL = f"""CREATE TABLE big (id int PRIMARY KEY, body text);
INSERT INTO big SELECT g, repeat(md5(g::text), 32) FROM generate_series(1, {MEGABYTES * 1000}) g;
SELECT realtime.watch('big')"""
STILL_SECONDS = 3.0  # for so long no memory was added, and nothing more is expected
GONE_SECONDS = 2.0  # after which what they took is back


async def measure(stage: Stage, clients: int) -> Data:
    database = stage.database()
    await database.execute(FILL)
    async with stage.server(database, SOBRANIE_ROWS_BUDGET=BUDGET) as server:
        pid = server.process.pid
        before = rss(pid)
        with ExitStack() as stack:
            for n in range(clients):
                stack.enter_context(_ask(server, n))
            peak = await _peak(server)

        async def gone() -> bool:
            return await server.metric("sobranie_sse_connections_active") == 0

        await eventually(gone, 60, "the clients have gone")
        await asyncio.sleep(GONE_SECONDS)
        after = rss(pid)
    say(
        f"  {clients} clients that take none of {MEGABYTES} MB of rows: memory +{number((peak - before) / 1e6)} MB, "
        f"+{number((after - before) / 1e6)} MB {GONE_SECONDS:g} s after they left"
    )
    return {"clients": clients, "before": before, "peak": peak, "after": after}


def _ask(server: Server, n: int) -> socket.socket:
    """A client that asks for rows; a channel of its own beside them, so that it shares no read."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", server.port))
    path = f"/realtime/events?channel=big&channel=notifications:user_id={n}&snapshot=1"
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    return client


async def _peak(server: Server) -> int:
    """The most memory that the server has until it has grown no more for a while."""
    peak, still = 0, 0.0
    while still < STILL_SECONDS:
        now = rss(server.process.pid)
        still = 0.0 if now > peak else still + 0.02
        peak = max(peak, now)
        await asyncio.sleep(0.02)
    return peak


def kept(data: Data) -> list[float]:
    """MB of the server's memory that have not gone back."""
    return [(data["holders"]["after"] - data["holders"]["before"]) / 1e6] if "holders" in data else []


def show(data: Data) -> Table:
    return Table(
        f"{data['clients']} clients that ask for {MEGABYTES} MB of rows and take none (budget {BUDGET})",
        ("", "MB of the server's memory"),
        [
            (name, number(data[key] / 1e6))
            for name, key in (
                ("before", "before"),
                ("at the most", "peak"),
                (f"{GONE_SECONDS:g} s after they left", "after"),
            )
        ],
    )
