"""From COMMIT to the message at an idle client. The bound is generous (shared machines); the figure is printed.

The clock starts before COMMIT is sent, so PostgreSQL's own commit is in the figure.
"""

import statistics
import time
from collections.abc import Callable

import pytest

from harness.database import Database
from harness.facts import pause
from harness.server import Server
from tests.support.transport import Transport

ROUNDS = 100
BOUND_MS = 10.0


@pytest.mark.parametrize(("state", "gap"), [("hot", 0.002), ("parked", 0.06)])
async def test_a_commit_reaches_an_idle_client_in_milliseconds(
    database: Database, server: Server, figures: Callable[[str], None], transport: Transport, state: str, gap: float
) -> None:
    delays = []
    async with await transport.open(server, "posts") as client, await database.connect(autocommit=False) as writer:
        for i in range(ROUNDS):
            await writer.execute("INSERT INTO posts (author_id, title) VALUES (1, %s)", (str(i),))
            at, seen = time.perf_counter(), len(client.messages)
            await writer.commit()
            await client.changes(i + 1)
            delays.append(
                1000
                * next(
                    client.arrivals[k] - at
                    for k in range(seen, len(client.messages))
                    if client.messages[k]["type"] == "changes"
                )
            )
            await pause(gap)
    quantiles = statistics.quantiles(delays, n=100)
    figures(
        f"commit to message, one idle client, {transport.kind}, reader {state}: "
        f"p50 {quantiles[49]:.2f} ms, p90 {quantiles[89]:.2f} ms, p99 {quantiles[98]:.2f} ms"
    )
    assert quantiles[49] < BOUND_MS
