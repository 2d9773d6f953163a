"""Rows that are asked for in a loop, as by a page that is loaded again and again, and what is wrong with them.

Invariant: what came is compared with the event log at the very position that came with it, so a refused or cut answer
is no finding, and rows of another moment are one.
"""

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import aiohttp

from harness.facts import pause
from tests.chaos.people import GONE
from tests.support import token
from tests.support.eventstream import EventParser
from tests.support.stream import loads
from tests.support.truth import Truth, canonical

KEPT = 5  # answers of a channel: those of one second are much the same
AGAIN_SECONDS = 0.1  # after a refusal


@dataclass(frozen=True)
class Asked:
    channel: str
    position: str
    rows: Counter[str]


async def loop(http: aiohttp.ClientSession, url: str, channel: str, ended: float) -> list[Asked]:
    """Asks until `ended` (seconds of the monotonic clock), anew at each answer: the newest answers."""
    found: list[Asked] = []
    while time.monotonic() < ended:
        answer = await _ask(http, url, channel)
        if answer is None:
            await pause(AGAIN_SECONDS)
        else:
            found = [*found, answer][-KEPT:]
    return found


async def _ask(http: aiohttp.ClientSession, url: str, channel: str) -> Asked | None:
    """The rows, or None where the server refused or went away."""
    parser, rows = EventParser(), Counter[str]()
    try:
        async with http.get(f"{url}/realtime/events", params={"channel": channel, "snapshot": "1"}) as response:
            async for data in response.content.iter_any():
                for message in (loads(event.data) for event in parser.feed(data) if event.data):
                    if message["type"] == "error":
                        return None
                    if message["type"] == "snapshot":
                        rows.update(canonical(row) for row in message["rows"])
                        if "position" in message:
                            return Asked(channel, message["position"], rows)
    except GONE:
        pass
    return None


def wrong(answers: Iterable[Asked], truth: Truth) -> list[str]:
    """One line for each answer that is not the table as it was at its position."""
    found = []
    for asked in answers:
        due = truth.state_at(asked.channel, token.read(asked.position))
        if due != asked.rows:
            lacks, has = due - asked.rows, asked.rows - due
            shown = f"lack {list(lacks)[:3]}, have {list(has)[:3]}"
            found.append(f"{asked.channel}: {lacks.total()} lost, {has.total()} too much at {asked.position}: {shown}")
    return found
