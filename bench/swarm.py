"""The swarm of subscribers (bench/load/swarm.c), driven over its stdin."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from bench.tools import compiled

Kind = Literal["ws", "sse"]
PATHS: dict[Kind, str] = {"ws": "/realtime/ws", "sse": "/realtime/events"}
READY: dict[Kind, str] = {"ws": '"type":"subscribed"', "sse": '"type":"position"'}
CONNECT_SECONDS = 120.0


@dataclass(frozen=True)
class Report:
    """What was counted since the last reset. Times are in ms; `cpu` is the swarm's own, of its whole life, in s."""

    changes: int
    reads: int
    bytes: int
    least: int  # changes of the client that got the fewest, and
    most: int
    closed: int
    cpu: float
    p50: float
    p90: float
    p99: float
    worst: float


class Swarm:
    def __init__(self, process: asyncio.subprocess.Process, count: int) -> None:
        self._process = process
        self.count = count
        self.connect_seconds = 0.0

    @classmethod
    async def open(
        cls,
        port: int,
        count: int,
        kind: Kind = "ws",
        channels: Sequence[str] = ("posts",),
        *,
        path: str = "",
        ready: str = "",
        position: str = "",
    ) -> Self:
        """`count` clients, all of them subscribed. A channel may contain %d, the client's number; see swarm.c."""
        arguments = [str(port), kind, path or PATHS[kind], str(count), ",".join(channels), ready or READY[kind]]
        process = await asyncio.create_subprocess_exec(
            compiled("swarm"),
            *arguments,
            *([position] if position else []),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        swarm = cls(process, count)
        swarm.connect_seconds = float((await swarm._answer(CONNECT_SECONDS)).removeprefix("ready "))
        return swarm

    async def reset(self) -> None:
        await self._ask("reset")

    async def report(self) -> Report:
        found: dict[str, Any] = json.loads(await self._ask("report"))
        return Report(**found | {k: found[k] / 1000 for k in ("p50", "p90", "p99", "worst")})

    async def until(self, changes: int, timeout: float = 60.0) -> float:
        """Waits for so many changes since the last reset, or since the beginning; the seconds that they took."""
        return float((await self._ask(f"until {changes}", timeout)).removeprefix("reached "))

    async def close(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _ask(self, line: str, timeout: float = 30.0) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        return await self._answer(timeout)

    async def _answer(self, timeout: float) -> str:
        assert self._process.stdout is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), timeout)
        except TimeoutError:
            await self.close()
            raise
        if not line:
            raise RuntimeError("the swarm ended")
        return line.decode().strip()
