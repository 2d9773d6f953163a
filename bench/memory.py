"""Idle connections: what each takes of the server's memory, how fast they come, and what keeping them costs.

Resident memory of the server process before and with them, a fresh server for each kind; sockets' memory in the kernel
is not in it. The heartbeat is 5 s here, so that a short window has two; at the default of 25 s it costs a fifth.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

from bench.blocks import Block, Table, Text
from bench.stage import Stage, insert, say
from bench.stats import number
from bench.swarm import Kind, Swarm
from bench.system import cpu, rss

Data = dict[str, Any]
CLIENTS = 10_000
HEARTBEAT = 5
IDLE_SECONDS = 10
CASES: tuple[tuple[str, Kind, tuple[str, ...]], ...] = (
    ("WebSocket", "ws", ("posts",)),
    ("SSE", "sse", ("posts",)),
    ("WebSocket, a channel of its own beside", "ws", ("posts", "posts:author_id=%d")),
)


async def measure(stage: Stage, *, clients: int = CLIENTS, idle: float = IDLE_SECONDS, cases: int = len(CASES)) -> Data:
    database = stage.database()
    found = []
    for name, kind, channels in CASES[:cases]:
        async with stage.server(database, SOBRANIE_HEARTBEAT=f"{HEARTBEAT}s") as server:
            pid = server.process.pid
            # What the first clients bring with them (code, caches) is not what the next one takes.
            async with await Swarm.open(server.port, 100, kind, channels) as first:
                await stage.write(database, insert(), "-t", "1")
                await first.until(100)
            before, began = rss(pid), cpu(pid)
            async with await Swarm.open(server.port, clients, kind, channels) as swarm:
                connect = cpu(pid) - began
                await asyncio.sleep(HEARTBEAT)
                after, began = rss(pid), cpu(pid)
                await asyncio.sleep(idle)
                cell: Data = {
                    "name": name,
                    "bytes": (after - before) / clients,
                    "connects": clients / swarm.connect_seconds,
                    "connect_us": connect * 1e6 / clients,
                    "idle": (cpu(pid) - began) / idle,
                    "closed": (await swarm.report()).closed,
                }
        found.append(cell)
        say(
            f"  {clients:,} idle, {name}: {number(cell['bytes'] / 1000)} KB each, {number(cell['connects'])} connects/s"
            f" ({number(cell['connect_us'])} µs CPU each), {number(100 * cell['idle'])} % of a core"
        )
        assert not cell["closed"], "no idle client is cut"
    return {"clients": clients, "heartbeat": HEARTBEAT, "cells": found}


def kilobytes(data: Data, name: str = "WebSocket") -> float | None:
    """KB (1,000 bytes) per connection."""
    return next((cell["bytes"] / 1000 for cell in data["cells"] if cell["name"] == name), None)


def show(data: Data) -> Iterator[Block]:
    yield Text(f"{data['clients']:,} connections to one server, all idle; the growth of the process's resident memory.")
    columns = (
        "",
        "KB each",
        "connects /s",
        "µs CPU a connect",
        f"% of a core, heartbeat {data['heartbeat']} s",
        "µs CPU a heartbeat",
    )
    yield Table(
        "",
        columns,
        [
            (
                cell["name"],
                number(cell["bytes"] / 1000),
                number(cell["connects"]),
                number(cell["connect_us"]),
                number(100 * cell["idle"]),
                number(cell["idle"] * 1e6 * data["heartbeat"] / data["clients"]),
            )
            for cell in data["cells"]
        ],
    )
