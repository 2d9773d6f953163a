"""Replay: a client comes back with a position, and what it missed comes first.

100,000 changes (in commits of 100 rows) to one client, from a server that still has them in its History and from one
that has just started and must read the event log; then 1,000 clients at once, each 1,000 changes behind. Time is from
the connect to the last change at the last client.
"""

from collections.abc import Iterator
from typing import Any

from bench.blocks import Block, Table, Text
from bench.stage import Stage, insert, say
from bench.stats import number, spread, with_range
from bench.swarm import Swarm
from bench.system import cpu, rss
from harness.database import Database
from harness.facts import eventually
from harness.server import Server

Data = dict[str, Any]
CHANGES = 100_000
ROWS = 100  # a commit
CLIENTS, EACH = 1000, 1000
# Twice what the changes take.
HISTORY = "256MB"
LABELS = {"history": "from History", "event_log": "from the event log"}


async def measure(
    stage: Stage, *, changes: int = CHANGES, clients: int = CLIENTS, rounds: int = 3, storm_rounds: int = 2
) -> Data:
    database = stage.database()
    cells: dict[tuple[str, str], Data] = {}
    async with stage.server(database, "history", SOBRANIE_HISTORY_BYTES=HISTORY) as server:
        async with await Swarm.open(server.port, 1) as live:
            start = await _position(database)
            await stage.write(database, insert(ROWS), "-t", str((changes - EACH) // ROWS))
            late = await _position(database)
            await stage.write(database, insert(ROWS), "-t", str(EACH // ROWS))
            await live.until(changes)
        for turn in range(max(rounds, storm_rounds)):
            for source in list(LABELS)[:: 1 if turn % 2 else -1]:
                for what, position, count, total, wanted in (
                    ("one", start, 1, changes, rounds),
                    ("storm", late, clients, clients * EACH, storm_rounds),
                ):
                    if turn >= wanted:
                        continue
                    empty = {"what": what, "source": source, "clients": count, "changes": total}
                    cell = cells.setdefault((what, source), empty | {"seconds": [], "cpu": [], "grown": []})
                    if source == "history":
                        found = await _replay(server, count, total, position)
                    else:
                        found = await _from_the_event_log(stage, database, count, total, position)
                    for key, value in found.items():
                        cell[key].append(value)
    for cell in cells.values():
        rate = [cell["changes"] / seconds for seconds in cell["seconds"]]
        say(f"  {cell['clients']:>5} clients {LABELS[cell['source']]:18} {with_range(rate)} changes/s")
    return {"rounds": rounds, "cells": list(cells.values())}


async def _from_the_event_log(stage: Stage, database: Database, count: int, total: int, position: str) -> Data:
    """A server that has just started has nothing in its History."""
    async with stage.server(database, "event-log") as server:
        return await _replay(server, count, total, position)


async def _replay(server: Server, count: int, total: int, position: str) -> Data:
    pid = server.process.pid
    began, before = cpu(pid), rss(pid)
    async with await Swarm.open(server.port, count, position=position) as swarm:
        seconds = await swarm.until(total, 120)
        report = await swarm.report()
        assert report.least == report.most == total // count, "each client has every change, and none twice"
        found = {"seconds": seconds, "cpu": (cpu(pid) - began) / seconds, "grown": rss(pid) - before}

    async def gone() -> bool:
        return await server.metric("sobranie_ws_connections_active") == 0

    await eventually(gone, 30, "the clients have gone")
    return found


async def _position(database: Database) -> str:
    return str(await database.value("SELECT realtime.position()"))


def rate(data: Data, what: str, source: str) -> list[float]:
    """Changes a second, round by round."""
    return next(
        ([c["changes"] / s for s in c["seconds"]] for c in data["cells"] if (c["what"], c["source"]) == (what, source)),
        [],
    )


def show(data: Data) -> Iterator[Block]:
    yield Text(
        "From the connect to the last change at the last client. Rows of 300 bytes, commits of "
        f"{ROWS} rows; the event log is read by a server that has just started, whose History is empty."
    )
    yield Table(
        "",
        ("", "clients", "changes each", "seconds", "changes/s in all", "server's CPU, cores", "its memory grew by MB"),
        [
            (
                LABELS[c["source"]],
                f"{c['clients']:,}",
                f"{c['changes'] // c['clients']:,}",
                with_range(c["seconds"]),
                with_range(rate(data, c["what"], c["source"])),
                number(spread(c["cpu"]).median),
                number(spread(c["grown"]).median / 1e6),
            )
            for c in data["cells"]
        ],
    )
