# ruff: noqa: T201 - a program that talks to whoever runs it
"""`python -m tests.chaos [minutes=N] [seed=S] [every=SECONDS] [out=FILE.svg]`

Rounds of about a minute and a half: faults, writers and restless clients; then all rest, everything is healed, every
client reaches the same position and the judge looks at every message since the round began. The exit code is 0 only
where nothing was lost, repeated, reordered or reset without a reason.
"""

import asyncio
import random
import re
import sys
import time
from contextlib import suppress
from pathlib import Path

from harness.facts import eventually, pause
from tests.chaos import beside, faults
from tests.chaos.books import Held
from tests.chaos.judging import Judge
from tests.chaos.people import Restless, crowd, writers
from tests.chaos.report import Run, Sample, picture, table
from tests.chaos.schedule import Schedule
from tests.chaos.world import TABLES, World
from tests.e2e.writers import Tally
from tests.support import token
from tests.support.transport import now

ROUND_SECONDS = 90.0
SETTLE_SECONDS = 240.0  # a machine that others share too; what is late is no finding, what never comes is
KEPT_ROWS = 600  # of each table, from round to round
SHOWN = 20


class Chaos:
    def __init__(self, world: World, seed: str, every: float) -> None:
        self.world, self.seed = world, seed
        self.tally, self.judge = Tally(), Judge(world)
        self.heard: list[Held] = []
        self.people = crowd(world, seed, self.heard)
        self.writers = writers(world, seed, self.tally)
        self.schedule = Schedule(world, seed, every, faults.ACTS | beside.ACTS, beside.ACTS)
        self.samples: list[Sample] = []
        self.memory: dict[str, int] = {}  # the most that was seen, in bytes

    async def run(self, seconds: float) -> None:
        await self.judge.begin()
        sampling = asyncio.create_task(self._sample())
        try:
            while self.world.now < seconds and self.judge.score.clean:
                await self._round(min(ROUND_SECONDS, max(5.0, seconds - self.world.now)))
        finally:
            sampling.cancel()
            with suppress(asyncio.CancelledError):
                await sampling
            for person in self.people:
                with suppress(Exception):
                    await person.client.abort()

    async def _round(self, seconds: float) -> None:
        written, broken, hopped = asyncio.Event(), asyncio.Event(), asyncio.Event()
        async with asyncio.TaskGroup() as everybody:
            for person in self.people:
                everybody.create_task(person.run(hopped))
            writing = [everybody.create_task(writer.run(written)) for writer in self.writers]
            breaking = everybody.create_task(self.schedule.run(broken))
            await pause(seconds)
            broken.set()
            await breaking
            await self.world.heal()
            written.set()
            await asyncio.gather(*writing)
            hopped.set()
        await self._trim()
        final = await now(self.world.database)
        await self._settle(final)
        await self.judge.round(self.people, final, self.schedule.asked)
        self.judge.note("what did not work", self.schedule.broken)
        self.heard.clear()
        self.schedule.asked.clear()
        self.schedule.broken.clear()
        self._say()

    async def _trim(self) -> None:
        """The writers' tables grow: what is too much is deleted, as any other change."""
        for name in TABLES:
            await self.world.database.execute(
                f"DELETE FROM {name} WHERE id < (SELECT id FROM {name} ORDER BY id DESC OFFSET {KEPT_ROWS} LIMIT 1)"
            )

    async def _settle(self, final: str) -> None:
        """Every client has everything, and no subscribe is under way."""
        goal = token.read(final)

        async def there() -> bool:
            await asyncio.gather(*(person.step(still=True) for person in self.people))
            return all(self._has(person, goal) for person in self.people)

        try:
            await eventually(there, SETTLE_SECONDS, "every client has everything", every=0.1)
        except AssertionError as error:
            late = [p for p in self.people if not self._has(p, goal)]
            shown = [
                (p.client.stream.name, p.connected, p.client.stream.position, p.client.stream.pending) for p in late
            ]
            raise AssertionError(f"{error}: {shown}, wanted {final}") from error

    @staticmethod
    def _has(person: Restless, goal: token.Token) -> bool:
        stream = person.client.stream
        return (
            person.connected
            and not stream.pending
            and stream.position is not None
            and token.read(stream.position).contains(goal)
        )

    async def _sample(self) -> None:
        while True:
            score = self.judge.score
            fresh = sum(person.client.stream.books.deliveries for person in self.people)
            self.samples.append(Sample(self.world.now, self.tally.committed, score.deliveries + fresh, score.rounds))
            for process, held in self.world.memory().items():
                self.memory[process] = max(self.memory.get(process, 0), held)
            await pause(1.0)

    def _say(self) -> None:
        score = self.judge.score
        print(
            f"{self.world.now:6.0f} s  round {score.rounds}: {len(self.schedule.noted)} faults, "
            f"{self.tally.committed} commits, {score.deliveries} deliveries, {dict(score.found) or 'nothing wrong'}, "
            f"resets {dict(score.resets)}, {len(score.unexplained)} unexplained",
            flush=True,
        )

    def result(self, seed: str) -> Run:
        logs = [station.server.output() for station in self.world.stations]
        return Run(
            seed, self.world.started, self.world.now, len(self.world.stations), len(self.people), self.schedule.noted,
            len(self.schedule.failed), self.memory, self.samples, self.tally, self.judge.score,
            sum(p.hops for p in self.people), sum(p.holidays for p in self.people),
            sum(log.count('"event": "failed"') for log in logs),
            sum(log.count('"event": "safety_poll_found"') for log in logs),
        )  # fmt: skip


def settings(arguments: list[str]) -> dict[str, str]:
    found = {"minutes": "3", "seed": str(random.SystemRandom().randrange(10**6)), "every": "6", "out": ""}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals or name not in found:
            raise SystemExit(f"{argument!r}: not one of {', '.join(f'{n}=…' for n in found)}")
        found[name] = value or found[name]
    if not re.fullmatch(r"[0-9.]+", found["minutes"]):
        raise SystemExit("minutes=… has to be a number")
    if not found["out"] and float(found["minutes"]) >= 30:
        found["out"] = "docs/chaos.svg"
    return found


async def main(arguments: list[str]) -> int:
    wanted = settings(arguments)
    print(f"chaos: {wanted['minutes']} minutes, seed={wanted['seed']}", flush=True)
    began = time.monotonic()
    async with World() as world:
        chaos = Chaos(world, wanted["seed"], float(wanted["every"]))
        try:
            await chaos.run(float(wanted["minutes"]) * 60)
            failed = ""
        except* AssertionError as errors:
            failed = "; ".join(str(error) for error in _flat(errors))
        run = chaos.result(wanted["seed"])
        if failed or run.internal or not run.score.clean:
            _details(chaos, failed)
    print(f"\n{table(run)}\n\n{time.monotonic() - began:.0f} s in all", flush=True)
    if wanted["out"]:
        Path(wanted["out"]).write_text(picture(run))
    return 0 if run.score.clean and not failed and not run.internal else 1


def _flat(group: BaseExceptionGroup[AssertionError]) -> list[BaseException]:
    return [
        e for error in group.exceptions for e in (_flat(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]


def _details(chaos: Chaos, failed: str) -> None:
    score = chaos.judge.score
    print(f"\nFAILED {failed}", *score.details[:SHOWN], sep="\n")
    print(*(f"reset unexplained: {reset}" for reset in score.unexplained[:SHOWN]), sep="\n")
    for noted in chaos.schedule.noted[-SHOWN:]:
        print(f"  {noted.began:6.1f} to {noted.ended:6.1f}  {noted.kind}: {noted.where}")
    for station in chaos.world.stations:
        output = station.server.output()
        bugs = [
            line
            for line in output.splitlines()
            if '"event": "failed"' in line or '"event": "safety_poll_found"' in line
        ]
        print(f"--- {station.name}", *bugs[:SHOWN], output[-1500:], sep="\n")


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
