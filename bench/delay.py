"""Delay: from the writing of a row to the message at every one of the clients.

The row bears the time at which its INSERT ran (`clock_timestamp()`), before its commit: PostgreSQL's own commit, with
its flush of the WAL, is in every figure; what the writer itself waited for its INSERT stands beside it. The writer's
pace is random, as people's is (pgbench -R); "full load" is 8 writers as fast as they can.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from bench.blocks import Block, Lines, Table, Text
from bench.stage import Stage, insert, say
from bench.stats import number, spread
from bench.swarm import Kind, Swarm
from bench.system import cpu
from harness.database import Database
from harness.server import Server

Data = dict[str, Any]
FULL = 0  # the rate that stands for "as fast as 8 writers can"
RATES = {20: 4, 200: 3, 2000: 2, FULL: 2}  # commits a second, and the seconds of a window
CLIENTS = (1, 100, 1000)
KINDS: tuple[Kind, ...] = ("ws", "sse")
# What full load leaves behind may take long to be delivered, and says nothing more.
DRAIN_SECONDS = 30.0


async def measure(
    stage: Stage,
    *,
    rates: Sequence[int] = tuple(RATES),
    clients: Sequence[int] = CLIENTS,
    kinds: Sequence[Kind] = KINDS,
    rounds: int = 2,
) -> Data:
    database = stage.database()
    cells: dict[tuple[Kind, int, int], Data] = {}
    async with stage.server(database) as server:
        await stage.write(database, insert(), "-t", "200")
        for _ in range(rounds):
            for count in clients:
                for kind in kinds:
                    await _swarm(stage, database, server, kind, count, rates, cells)
    for cell in cells.values():
        say(
            f"  {cell['kind']:3} {cell['clients']:>5} clients, {_rate(cell['rate']):>9} commits/s: "
            + ", ".join(f"{q} {number(spread(cell[q]).median)}" for q in ("p50", "p90", "p99"))
            + f" ms (the INSERT itself {number(spread(cell['insert']).median)} ms)"
        )
    return {"rounds": rounds, "cells": list(cells.values())}


async def _swarm(
    stage: Stage,
    database: Database,
    server: Server,
    kind: Kind,
    count: int,
    rates: Sequence[int],
    cells: dict[tuple[Kind, int, int], Data],
) -> None:
    async with await Swarm.open(server.port, count, kind) as swarm:
        for rate in rates:
            empty: Data = {"kind": kind, "clients": count, "rate": rate}
            for key in ("p50", "p90", "p99", "worst", "insert", "commits", "cpu"):
                empty[key] = []
            cell = cells.setdefault((kind, count, rate), empty)
            for key, value in (await _window(stage, database, server, swarm, rate)).items():
                cell[key].append(value)


async def _window(stage: Stage, database: Database, server: Server, swarm: Swarm, rate: int) -> Data:
    await swarm.reset()
    began = cpu(server.process.pid)
    pace = ("-R", str(rate)) if rate else ()
    writers = 8 if rate in (FULL, 2000) else 1
    written = await stage.write(database, insert(), "-T", str(RATES[rate]), *pace, clients=writers)
    await swarm.until(written.commits * swarm.count, DRAIN_SECONDS)
    report = await swarm.report()
    return {"p50": report.p50, "p90": report.p90, "p99": report.p99, "worst": report.worst} | {
        "insert": written.latency_ms,
        "commits": written.commits / RATES[rate],
        "cpu": (cpu(server.process.pid) - began) / RATES[rate],
    }


def cell(data: Data, kind: Kind, clients: int, rate: int) -> Data | None:
    wanted = (kind, clients, rate)
    return next((c for c in data["cells"] if (c["kind"], c["clients"], c["rate"]) == wanted), None)


def _rate(rate: int) -> str:
    return f"{rate:,}" if rate else "full load"


def show(data: Data) -> Iterator[Block]:
    yield Text(
        "From the running of an INSERT to the message at every client, in ms: the commit, with its flush to disk, is "
        "in it, and stands beside it as the writer saw it. Random pace; full load is 8 writers without a pause. "
        f"Medians of {data['rounds']} rounds; writers, PostgreSQL, server and all clients share the machine."
    )
    for kind in dict.fromkeys(c["kind"] for c in data["cells"]):
        rows = [
            (
                f"{c['clients']:,}",
                _rate(c["rate"]),
                number(spread(c["commits"]).median),
                *(number(spread(c[q]).median) for q in ("p50", "p90", "p99", "insert")),
            )
            for c in data["cells"]
            if c["kind"] == kind
        ]
        name = "WebSocket" if kind == "ws" else "SSE"
        yield Table(name, ("clients", "asked /s", "commits /s", "p50", "p90", "p99", "the INSERT itself"), rows)
    clients = sorted({c["clients"] for c in data["cells"]})
    yield Lines(
        "delay",
        "Delay to WebSocket clients, p50 (ms) by commits a second",
        "commits a second",
        {
            f"{count:,} client{'s' if count > 1 else ''}": [
                (spread(c["commits"]).median, spread(c["p50"]).median)
                for c in data["cells"]
                if c["kind"] == "ws" and c["clients"] == count
            ]
            for count in clients
        },
    )
