"""What a run came to: a table in Markdown, and the timeline as an SVG."""

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

from harness import svg
from harness.svg import BLUE, GREEN, INK, QUIET, RED, text
from tests.chaos.judging import Score
from tests.chaos.schedule import Noted
from tests.e2e.writers import Tally

WIDTH, LEFT, RIGHT, LANE, CHART = 1200, 190, 20, 18, 110


@dataclass(frozen=True)
class Sample:
    at: float  # seconds since the start
    commits: int
    deliveries: int
    rounds: int


@dataclass(frozen=True)
class Run:
    seed: str
    started: float  # of the monotonic clock
    seconds: float
    servers: int
    clients: int
    noted: list[Noted]
    failed: int  # faults that could not happen, because PostgreSQL was away
    memory: dict[str, int]  # the most that was seen, in bytes
    samples: list[Sample]
    tally: Tally
    score: Score
    hops: int
    holidays: int
    internal: int  # errors that nobody foresaw, in the servers' logs
    polls: int  # finds of the safety poll


def table(run: Run) -> str:
    score, kinds = run.score, Counter(noted.kind for noted in run.noted)
    rows = [
        ("length", f"{run.seconds / 60:.1f} min, {score.rounds} rounds, seed {run.seed}"),
        ("servers, clients, writers", f"{run.servers}, {run.clients}, 16"),
        ("faults injected", f"{len(run.noted)}"),
        *((f"&nbsp;&nbsp;{kind}", str(count)) for kind, count in sorted(kinds.items())),
        ("faults that could not happen", f"{run.failed} (PostgreSQL was away)"),
        ("transactions committed", f"{run.tally.committed} (acknowledged to the writers)"),
        ("changes in the event log", str(score.changes)),
        ("deliveries", f"{score.deliveries} changes in {score.units} units"),
        ("reconnects, holidays", f"{run.hops}, {run.holidays}"),
        ("**lost**", str(score.found["lost"])),
        (
            "**duplicated**",
            f"{score.found['duplicated']} (beyond {score.repeated} in units that a disconnect left open)",
        ),
        ("**reordered**", str(score.found["reordered"])),
        ("other breaches of the protocol", str(sum(score.found.values()) - sum(score.found[k] for k in NAMED))),
        ("rows asked in a loop, compared", str(score.asked)),
        ("resets", ", ".join(f"{n} {r}" for r, n in sorted(score.resets.items())) or "none"),
        ("resets unexplained", str(len(score.unexplained))),
        ("longest pause of a client's stream", _pause(run)),
        ("memory at most", ", ".join(f"{name} {held >> 20} MiB" for name, held in run.memory.items())),
        ("internal errors of servers", str(run.internal)),
        ("found by the safety poll alone", str(run.polls)),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _pause(run: Run) -> str:
    """With what was broken meanwhile."""
    pause = run.score.longest_pause
    began = pause.began - run.started
    faults = [n for n in run.noted if n.began < began + pause.seconds and n.ended > began]
    named = ", ".join(f"{n.kind} ({n.where}, {n.began:.0f} to {n.ended:.0f} s)" for n in faults) or "nothing"
    return f"{pause.seconds:.1f} s ({pause.client}, from {began:.0f} s on; meanwhile: {named})"


NAMED = ("lost", "duplicated", "reordered")


def picture(run: Run) -> str:
    kinds = sorted({noted.kind for noted in run.noted})
    scale = (WIDTH - LEFT - RIGHT) / max(run.seconds, 1.0)
    top = 50 + 2 * (CHART + 30)
    height = top + LANE * len(kinds) + 40
    parts = [
        text(LEFT, 22, f"{len(run.noted)} faults in {run.seconds / 60:.0f} minutes: {_outcome(run)}", 15),
        *_minutes(run.seconds, scale, 40, height - 25),
        *_chart(run, 50, "commits a second", [(s.at, s.commits) for s in run.samples], scale, BLUE),
        *_chart(run, 80 + CHART, "deliveries a second", [(s.at, s.deliveries) for s in run.samples], scale, GREEN),
    ]
    for lane, kind in enumerate(kinds):
        y = top + lane * LANE
        parts.append(text(LEFT - 8, y + 11, kind, anchor="end"))
        parts.append(svg.line(LEFT, y + 7, WIDTH - RIGHT, y + 7))
        for noted in (n for n in run.noted if n.kind == kind):
            x, width = LEFT + noted.began * scale, max(2.0, (noted.ended - noted.began) * scale)
            parts.append(f'<rect x="{x:.1f}" y="{y + 2}" width="{width:.1f}" height="10" fill="{RED}" opacity="0.75"/>')
    return svg.picture(WIDTH, height, parts)


def _outcome(run: Run) -> str:
    score = run.score
    return (
        f"{run.tally.committed:,} commits, {score.deliveries:,} deliveries, {score.found['lost']} lost, "
        f"{score.found['duplicated']} duplicated, {score.found['reordered']} reordered"
    )


def _minutes(seconds: float, scale: float, top: float, bottom: float) -> list[str]:
    step = max(1, round(seconds / 60 / 15)) * 60
    parts = []
    for at in range(0, int(seconds) + 1, step):
        x = LEFT + at * scale
        parts.append(svg.line(x, top, x, bottom, QUIET, ' stroke-dasharray="2 4"'))
        parts.append(text(x, bottom + 14, f"{at // 60} min", anchor="middle"))
    return parts


def _chart(run: Run, top: float, title: str, counted: list[tuple[float, int]], scale: float, colour: str) -> list[str]:
    """A rate from a running count."""
    rates = [
        (later[0], (later[1] - earlier[1]) / (later[0] - earlier[0]))
        for earlier, later in pairwise(counted)
        if later[0] > earlier[0]
    ]
    # The peaks, of a round's end, would flatten everything else: they are cut off.
    usual = sorted(rate for _, rate in rates)[: max(1, len(rates) * 97 // 100)]
    most = max(usual, default=1.0) or 1.0
    points = " ".join(
        f"{LEFT + at * scale:.1f},{top + CHART - min(1.0, rate / most) * CHART:.1f}" for at, rate in rates
    )
    base = top + CHART
    return [
        text(LEFT - 8, top + 12, title, anchor="end"),
        text(LEFT - 8, top + 28, f"0 to {most:,.0f}", anchor="end"),
        svg.line(LEFT, base, WIDTH - RIGHT, base, INK),
        f'<polyline points="{points}" fill="none" stroke="{colour}"/>',
    ]
