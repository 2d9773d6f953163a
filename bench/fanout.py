"""Fan-out: CPU of the server process for each change that reaches a client, beside peers that send the same bytes.

Every peer has its own clients, connected the whole time; windows alternate, at an even pace and one peer at a time. A
delivery is one change at one client: a message of ten changes is ten. Our server's CPU has everything in it: reading
the event log, encoding, the metrics. The peers' has no database; so the same is also measured with one client, and what
that takes is shown apart.
"""

from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import aiohttp

from bench.blocks import Bars, Block, Table, Text
from bench.peers import Peer, running
from bench.stage import Stage, insert, paced, say
from bench.stats import number, ratios, spread, with_range
from bench.swarm import Swarm
from bench.system import cpu
from harness.database import Database
from harness.server import Server

CLIENTS = 2000
PEERS = ("floor", "bun", "elysia", "nchan")
ONE = "one client"  # ours, and what it takes where there is nobody to fan out to
EACH = "a send each"  # ours, where the kernel does not let us have io_uring
LABELS = {
    "ours": "ours",
    EACH: "ours without io_uring",
    ONE: "ours, one client",
    "ours, own channels": "ours, each client also on a channel of its own",
    "floor": "floor (C, one send each)",
    "bun": "Bun's publish",
    "elysia": "Elysia, a Map of clients",
    "nchan": "nchan",
}
Data = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """What is sent: so many changes at once, of so many bytes, so often a second."""

    changes: int
    size: int
    rate: float


# Slow enough that a batch is out before the next comes: otherwise they gather, which is cheaper and not the question.
SHAPES = (Shape(1, 300, 20), Shape(10, 300, 15), Shape(1, 4096, 15), Shape(10, 4096, 4))


async def measure(
    stage: Stage,
    *,
    shapes: Sequence[Shape] = SHAPES,
    peers: Sequence[str] = PEERS,
    rounds: int = 3,
    seconds: float = 1.2,
    own: bool = True,
) -> Data:
    # A database each: a change reaches the clients of one server only.
    ours, plain, theirs, lone = (stage.database() for _ in range(4))
    found: list[Data] = []
    async with (
        stage.server(ours) as server,
        stage.server(plain, SOBRANIE_IO_URING="0") as sender,
        stage.server(theirs) as other,
        stage.server(lone) as quiet,
        await Swarm.open(server.port, CLIENTS) as common,
        await Swarm.open(sender.port, CLIENTS) as same,
        await Swarm.open(other.port, CLIENTS, channels=("posts", "posts:author_id=%d")) as each,
        await Swarm.open(quiet.port, 1) as one,
        running(stage, peers, CLIENTS) as others,
    ):
        for shape in shapes:
            message = await _sample(stage, ours, server, shape)
            single = await _sample(stage, ours, server, replace(shape, changes=1))
            windows = {
                "ours": partial(_ours, stage, ours, server, common, shape, CLIENTS, seconds),
                EACH: partial(_ours, stage, plain, sender, same, shape, CLIENTS, seconds),
                ONE: partial(_ours, stage, lone, quiet, one, shape, 1, seconds),
            }
            if own:
                windows["ours, own channels"] = partial(_ours, stage, theirs, other, each, shape, CLIENTS + 1, seconds)
            for peer, swarm in others:
                # The floor sends ten changes in one frame, as we do; the others have a message for each change.
                sent = (_frame(message), 1) if peer.name == "floor" else (single, shape.changes)
                windows[peer.name] = partial(_theirs, peer, swarm, shape, *sent, seconds)
            found += await _alternate(windows, shape, rounds, len(message))
    return {"clients": CLIENTS, "seconds": seconds, "rounds": rounds, "cells": found}


async def _alternate(
    windows: Mapping[str, Callable[[], Coroutine[Any, Any, Data]]], shape: Shape, rounds: int, size: int
) -> list[Data]:
    cells: dict[str, Data] = {
        name: {"who": name, "changes": shape.changes, "size": shape.size, "rate": shape.rate, "bytes": size}
        | {"us": [], "p50": [], "p99": []}
        for name in windows
    }
    for turn in range(rounds):
        for name in list(windows)[:: 1 if turn % 2 else -1]:
            for key, value in (await windows[name]()).items():
                cells[name][key].append(value)
    for name, cell in cells.items():
        say(
            f"  {shape.changes:>2} × {shape.size:>4} bytes  {LABELS[name]:48} "
            f"{with_range(cell['us'])} µs CPU a delivery, p50 {number(spread(cell['p50']).median)} ms"
        )
    return list(cells.values())


async def _sample(stage: Stage, database: Database, server: Server, shape: Shape) -> bytes:
    """The message that our server sends for such a batch: what the peers send too."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(server.url + "/realtime/ws", max_msg_size=0, compress=0) as ws,
    ):
        await ws.send_str('{"type":"subscribe","channels":["posts"]}')
        while '"subscribed"' not in await ws.receive_str():
            pass
        await stage.write(database, insert(shape.changes, shape.size), "-t", "1")
        while True:
            text = await ws.receive_str(timeout=10)
            if '"changes":[' in text:
                return text.encode()


async def _ours(
    stage: Stage, database: Database, server: Server, swarm: Swarm, shape: Shape, each: int, seconds: float
) -> Data:
    """`each` is how many deliveries a change has."""
    await swarm.reset()
    began = cpu(server.process.pid)
    script = paced(insert(shape.changes, shape.size, authors=CLIENTS), shape.rate)
    written = await stage.write(database, script, "-t", str(round(shape.rate * seconds)))
    await swarm.until(written.commits * shape.changes * each)
    return await _window(server.process.pid, began, swarm)


async def _theirs(peer: Peer, swarm: Swarm, shape: Shape, message: bytes, burst: int, seconds: float) -> Data:
    await swarm.reset()
    began = cpu(peer.pid)
    await peer.go(shape.rate, seconds, burst, message)
    await swarm.until(round(shape.rate * seconds) * shape.changes * CLIENTS)
    return await _window(peer.pid, began, swarm)


async def _window(pid: int, began: float, swarm: Swarm) -> Data:
    used, report = cpu(pid) - began, await swarm.report()
    return {"us": used * 1e6 / report.changes, "p50": report.p50, "p99": report.p99}


def _frame(message: bytes) -> bytes:
    size = len(message)
    if size < 126:
        return bytes([0x81, size]) + message
    if size < 65536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + message
    return b"\x81\x7f" + size.to_bytes(8, "big") + message


def samples(data: Data, who: str, changes: int, size: int = 300) -> list[float]:
    """CPU per delivery of each round, in µs; none where it was not measured."""
    return next((c["us"] for c in data["cells"] if (c["who"], c["changes"], c["size"]) == (who, changes, size)), [])


def against(data: Data, who: str, changes: int, their_changes: int | None = None) -> list[float]:
    """Our CPU per delivery against theirs, round by round."""
    ours, theirs = samples(data, "ours", changes), samples(data, who, their_changes or changes)
    return ratios(ours, theirs) if ours and theirs else []


def show(data: Data) -> Iterator[Block]:
    yield Text(
        f"CPU of the server process for each change at each client: {data['clients']:,} WebSocket clients, windows of "
        f"{data['seconds']:g} s at an even pace, {data['rounds']} rounds that alternate; in µs, median "
        "(lowest–highest). Ours has the reading of the event log in it. The floor sends a batch in one `send`, as we "
        "do; the others send a message for each change, ten of them in one go. `p50` is from the writing of the row "
        "(the peers: from their timer) to the client."
    )
    shapes = list(dict.fromkeys((c["changes"], c["size"], c["rate"], c["bytes"]) for c in data["cells"]))
    for changes, size, rate, whole in shapes:
        floor = samples(data, "floor", changes, size)
        yield Table(
            f"{_shape(changes, size)} ({rate:g} batches a second, {whole:,} bytes a message)",
            ("", "µs a delivery", "× the floor", "p50 ms", "p99 ms"),
            [
                (label, with_range(us), number(spread(ratios(us, floor)).median) if floor else "–", p50, p99)
                for label, us, p50, p99 in _shown(data, changes, size)
            ],
        )
    yield Bars(
        "fanout",
        "CPU per delivery in µs (less is better)",
        {
            _shape(changes, size): [(LABELS[c["who"]], *spread(c["us"])[:3]) for c in _cells(data, changes, size)]
            for changes, size, *_ in shapes
        },
    )


def _shape(changes: int, size: int) -> str:
    return f"{changes} change{'s' if changes > 1 else ''} of {size} bytes a batch"


def _cells(data: Data, changes: int, size: int) -> list[Data]:
    """Of everybody, but for ours with one client."""
    return [c for c in data["cells"] if (c["changes"], c["size"]) == (changes, size) and c["who"] != ONE]


def _shown(data: Data, changes: int, size: int) -> Iterator[tuple[str, list[float], str, str]]:
    """Label, CPU of each round, p50 and p99 of everybody; ours once more without what one client takes."""
    alone = samples(data, ONE, changes, size)
    for c in _cells(data, changes, size):
        yield LABELS[c["who"]], c["us"], number(spread(c["p50"]).median), number(spread(c["p99"]).median)
        if c["who"] == "ours" and alone:
            each = [us - one / data["clients"] for us, one in zip(c["us"], alone, strict=True)]
            batch = spread(alone).median * changes / 1000
            yield f"ours, less the {number(batch)} ms a batch that it takes with one client", each, "–", "–"
