"""The aims, what was reached, and the bounds of `make bench-quick`. Pure: figures in, verdicts out.

An aim is where the product is to go; a bound is what it must never fall back behind. Bounds are ratios of one run,
and leave about half as much again as was measured on two shared cores, so that they are crossed by a change and not by
a noisy neighbour; what was measured without io_uring is within them too.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bench import beside, beside_rows, delay, fanout, memory, replay, writers
from bench.blocks import Table, Text
from bench.stats import number, ratios, spread

Samples = Sequence[float]
Results = Mapping[str, Any]


@dataclass(frozen=True)
class Goal:
    part: str
    what: str
    figure: Callable[[Any], Samples]  # of the part's result; no samples where it was not measured
    sign: Literal["≥", "≤"]
    bound: float
    unit: str = ""
    how: str = ""
    limit: str = ""  # where the time goes, and the best that is possible: for when the aim is missed

    def samples(self, results: Results) -> Samples:
        return self.figure(results[self.part]) if self.part in results else []

    def met(self, value: float) -> bool:
        return value >= self.bound if self.sign == "≥" else value <= self.bound


def _kept(writers_: int) -> Callable[[Any], Samples]:
    def figure(data: Any) -> Samples:
        cell = writers.find(data, "INSERT", writers_)
        return writers.kept(cell) if cell else []

    return figure


def _bulk(data: Any) -> Samples:
    """Time against the floor's: the inverse of the speeds."""
    cell = writers.find(data, "INSERT", 1, writers.BULK)
    return writers.kept(cell, "floor", "capture") if cell else []


def _delay(clients: int, rate: int, quantile: str) -> Callable[[Any], Samples]:
    def figure(data: Any) -> Samples:
        cell = delay.cell(data, "ws", clients, rate)
        return cell[quantile] if cell else []

    return figure


def _against(who: str, changes: int, theirs: int | None = None) -> Callable[[Any], Samples]:
    return lambda data: fanout.against(data, who, changes, theirs)


def _memory(data: Any) -> Samples:
    found = memory.kilobytes(data)
    return [] if found is None else [found]


def _fanout_delay(data: Any) -> Samples:
    cells = {c["who"]: c["p50"] for c in data["cells"] if (c["changes"], c["size"]) == (1, 300)}
    return ratios(cells["ours"], cells["floor"]) if {"ours", "floor"} <= cells.keys() else []


def _from_the_event_log(data: Any) -> Samples:
    return replay.rate(data, "one", "event_log")


def _event_log_to_history(data: Any) -> Samples:
    return ratios(_from_the_event_log(data), replay.rate(data, "one", "history"))


def _next(what: str, key: str) -> Callable[[Any], Samples]:
    return lambda data: beside.next_change(data, what, key)


BESIDE = "400 clients, 20,000 rows of nobody's"
TO_THE_MESSAGE = "INSERT to message, WebSocket"
OF_A_TRIGGER = (
    "docs/decisions/0007-what-writers-pay.md has the profile, part by part. On cores that writers, server and load "
    "generator share, the least trigger that writes an event log keeps 0.71 where the processor is the limit; the "
    "floor by hand, which is no trigger, has its own row in the tables below."
)
OF_A_LONE_CHANGE = (
    "It has the INSERT itself in it, its commit's flush included; the rest is PostgreSQL's notification, one read of "
    "the event log, and two processes that wake up with cold caches (docs/decisions/0010-rare-commits.md)."
)
OF_A_REPLAY = (
    "One process's Python, some 10 µs a change: reading and decoding rows 30 %, their order and index 15 %, putting "
    "messages together 25 %, writing them and the rest 15 %, and 15 % of waiting for PostgreSQL, which reading ahead "
    "would hide. At quiet moments of the same machine it is 103,000 to 111,000."
)
AIMS = (
    Goal(
        "writers",
        "throughput kept by 8 writers, single-row INSERT",
        _kept(8),
        "≥",
        0.80,
        how="of the untriggered",
        limit=OF_A_TRIGGER,
    ),
    Goal(
        "writers",
        "throughput kept by 1 writer",
        _kept(1),
        "≥",
        0.75,
        how="of the untriggered",
        limit=OF_A_TRIGGER,
    ),
    Goal(
        "writers",
        "bulk INSERT of 100,000 rows, time against the floor",
        _bulk,
        "≤",
        1.3,
        how="floor: row and JSON by hand, one statement",
    ),
    Goal(
        "fanout",
        "CPU per delivery against the C floor, one change a batch",
        _against("floor", 1),
        "≤",
        1.25,
        how="2,000 clients, 300 bytes",
    ),
    Goal(
        "fanout",
        "CPU per delivery at 10 changes a batch against Bun's publish",
        _against("bun", 10, 1),
        "≤",
        0.25,
        how="the same; Bun at one change a message",
    ),
    Goal(
        "delay", "delay p50 at 200 commits/s and 1,000 clients", _delay(1000, 200, "p50"), "≤", 15, "ms", TO_THE_MESSAGE
    ),
    Goal(
        "delay", "delay p99 at 200 commits/s and 1,000 clients", _delay(1000, 200, "p99"), "≤", 60, "ms", TO_THE_MESSAGE
    ),
    Goal(
        "delay",
        "delay p50 at 20 commits/s, one client",
        _delay(1, 20, "p50"),
        "≤",
        2,
        "ms",
        TO_THE_MESSAGE,
        limit=OF_A_LONE_CHANGE,
    ),
    Goal("memory", "server memory per idle WebSocket connection", _memory, "≤", 8, "KB", "growth of RSS at 10,000"),
    Goal(
        "replay",
        "replay from the event log to one client",
        _from_the_event_log,
        "≥",
        100_000,
        "changes/s",
        "100,000 changes",
        limit=OF_A_REPLAY,
    ),
    Goal("beside", "next change of another table beside a bulk write", _next("other", "ms"), "≤", 100, "ms", BESIDE),
    Goal("beside", "PostgreSQL's CPU for that", _next("other", "database"), "≤", 0.5, "s", BESIDE),
    Goal("beside", "next change of other rows of the same table", _next("same", "ms"), "≤", 500, "ms", BESIDE),
    Goal(
        "beside",
        "PostgreSQL's CPU for 100 clients that want all of a bulk write against that for one",
        beside.shared,
        "≤",
        3,
        how="100,000 rows in one transaction",
    ),
    Goal(
        "beside",
        "CPU for a bulk write with marks against one without",
        beside.marks,
        "≤",
        2,
        how="100,000 rows in one transaction",
    ),
    Goal("beside", "a check of 5,000 watched tables", beside.check, "≤", 1, "s", "each ten seconds, by the leader"),
    Goal(
        "beside",
        "memory that 24 clients with 60 MB of rows leave behind",
        beside_rows.kept,
        "≤",
        20,
        "MB",
        "two seconds after they left",
    ),
)

BOUNDS = (
    Goal(
        "beside",
        "PostgreSQL's CPU for 20 clients that want all of a bulk write against that for one",
        beside.shared,
        "≤",
        3,
    ),
    Goal("beside", "CPU for a bulk write with marks against one without", beside.marks, "≤", 2),
    Goal("writers", "row images that the client received, of those written", writers.surplus, "≤", 1.0),
    Goal("writers", "throughput kept by 8 writers, single-row INSERT", _kept(8), "≥", 0.50),
    Goal("writers", "bulk INSERT of 100,000 rows, time against the floor", _bulk, "≤", 1.7),
    Goal("fanout", "CPU per delivery against the C floor, one change a batch", _against("floor", 1), "≤", 1.6),
    Goal("fanout", "CPU per delivery against the C floor, ten changes a batch", _against("floor", 10), "≤", 1.8),
    Goal("fanout", "delay p50 against the C floor's, 2,000 clients", _fanout_delay, "≤", 2.0),
    Goal("replay", "replay from the event log against History, changes/s", _event_log_to_history, "≥", 0.14),
    Goal("memory", "server memory per idle WebSocket connection", _memory, "≤", 5.5, "KB"),
)


def table(results: Results, goals: Iterable[Goal] = AIMS) -> Table:
    rows = []
    for goal in goals:
        samples = goal.samples(results)
        aim = f"{goal.sign} {goal.bound:,g} {goal.unit}".strip()
        if not samples:
            rows.append((goal.what, aim, "not measured", "–", goal.how))
            continue
        middle, low, high, count = spread(samples)
        shown = number(middle) if count == 1 else f"{number(middle)} ({number(low)}–{number(high)})"
        rows.append((goal.what, aim, shown, "yes" if goal.met(middle) else "**no**", goal.how))
    return Table("", ("what", "aim", "measured", "reached", "how"), rows)


def missed(results: Results, goals: Iterable[Goal] = AIMS) -> Text | None:
    """What is in the way of the aims that were not reached."""
    limits: dict[str, list[str]] = {}
    for goal in goals:
        samples = goal.samples(results)
        if samples and not goal.met(spread(samples).median):
            limits.setdefault(goal.limit or "Not looked into.", []).append(goal.what)
    lines = [f"- *{'; '.join(what)}*: {limit}" for limit, what in limits.items()]
    return Text("Not reached:\n\n" + "\n".join(lines)) if lines else None


def broken(results: Results, bounds: Iterable[Goal] = BOUNDS) -> list[str]:
    """The bounds that are crossed by the median, or have nothing measured to stand on."""
    found = []
    for goal in bounds:
        samples = goal.samples(results)
        if not samples:
            found.append(f"{goal.what}: not measured")
        elif not goal.met(spread(samples).median):
            found.append(
                f"{goal.what}: {number(spread(samples).median)} {goal.unit}, bound {goal.sign} {goal.bound:,g}"
            )
    return found
