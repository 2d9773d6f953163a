"""The tools of the benchmarks: what they count is what was sent, and how late it was."""

import asyncio
import random
import time

import pytest

from bench import tools
from bench.swarm import Swarm
from harness.facts import turn

MARKS, CLIENTS, AGE = 3000, 3, 5.0


@pytest.fixture(autouse=True)
def compiler() -> None:
    try:
        tools.compiled("swarm")
    except tools.Missing as problem:
        pytest.skip(str(problem))


async def send_marks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Marks that are AGE seconds old, between other bytes, cut anywhere."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
    dice = random.Random(1)
    mark = b"@t%016d" % ((time.time() - AGE) * 1e6)
    data = b"".join(
        dice.choice([b"@", b"@t", b'\x81\x7e@t{"type":"changes",', b'{"x":"a@b"}', b""]) + mark for _ in range(MARKS)
    )
    at = 0
    while at < len(data):
        size = dice.choice([1, 7, 17, 18, 19, 400])
        writer.write(data[at : at + size])
        at += size
        await writer.drain()
        await turn()
    await reader.read()
    writer.close()


async def test_the_swarm_counts_each_mark_once_however_the_stream_is_cut() -> None:
    server = await asyncio.start_server(send_marks, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, await Swarm.open(port, CLIENTS, channels=(), ready="\r\n\r\n") as swarm:
        took = await swarm.until(MARKS * CLIENTS, 30)
        report = await swarm.report()
    assert (report.changes, report.least, report.most) == (MARKS * CLIENTS, MARKS, MARKS)
    # Within the histogram's 1.6 %, and the time that the sending itself took.
    assert AGE * 1000 * 0.98 <= report.p50 <= report.p90 <= report.p99 <= (AGE + took + 1) * 1000 * 1.02
    assert report.p99 <= report.worst * 1.02
