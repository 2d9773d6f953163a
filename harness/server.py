"""The product as it runs: `python -m app serve`, or an installed `sobranie serve`, in a process of its own.

Invariants: no setting of the caller's environment reaches it; its output goes to a file that a failing test prints;
leaving the context ends the process, stopped ones included.
"""

import asyncio
import signal
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
import psutil
from prometheus_client.parser import text_string_to_metric_families

from harness.cluster import ROOT, clean_environment, free_port
from harness.facts import eventually

STOP_SECONDS = 15.0
OUTPUT_CHARS = 6000
# A short heartbeat, so that a position comes soon where nothing matched.
DEFAULTS = {"SOBRANIE_LOG_FORMAT": "json", "SOBRANIE_HEARTBEAT": "500ms", "PYTHONUNBUFFERED": "1"}


class Server:
    program: tuple[str, ...] = (sys.executable, "-m", "app")
    cwd = ROOT

    def __init__(self, database_url: str, name: str = "one", port: int | None = None, **environment: str) -> None:
        """`environment` are further settings, such as SOBRANIE_HEARTBEAT="1s"."""
        self.name, self.port = name, port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        own = {"DATABASE_URL": database_url, "SOBRANIE_PORT": str(self.port), "SOBRANIE_SERVER_ID": name}
        self._environment = clean_environment(**(DEFAULTS | own | environment))
        self.log = Path(tempfile.mkstemp(prefix=f"sobranie-{name}-", suffix=".log")[1])
        self._process: asyncio.subprocess.Process | None = None

    @property
    def process(self) -> asyncio.subprocess.Process:
        assert self._process is not None, "the server has not been started"
        return self._process

    async def spawn(self) -> None:
        """Starts the process and waits for nothing."""
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self.program, "serve", cwd=self.cwd, env=self._environment, stdout=log, stderr=log
            )

    async def start(self, timeout: float = 20.0) -> Self:
        await self.spawn()
        try:
            await eventually(self._ready_or_dead, timeout, f"server {self.name} ready", every=0.05)
        except AssertionError as error:
            raise AssertionError(f"{error}; {await self.ready()}\n{self.output()[-OUTPUT_CHARS:]}") from error
        return self

    async def _ready_or_dead(self) -> bool:
        if self.process.returncode is not None:
            raise AssertionError(f"server {self.name} ended ({self.process.returncode}):\n{self.output()}")
        return (await self.ready())[0] == 200

    async def ready(self) -> tuple[int, str]:
        return await self.get("/readyz")

    async def get(self, path: str) -> tuple[int, str]:
        """Status and body; status 0 where nothing answers."""
        timeout = aiohttp.ClientTimeout(total=5)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as session, session.get(self.url + path) as answer:
                return answer.status, await answer.text()
        except (aiohttp.ClientError, TimeoutError, OSError):
            return 0, ""

    async def metrics(self) -> dict[str, float]:
        """Every sample by its name and, in the exposition's own form, by name and labels; names sum their labels."""
        status, text = await self.get("/metrics")
        assert status == 200, f"/metrics of {self.name} answered {status}"
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = ",".join(f'{k}="{v}"' for k, v in sorted(sample.labels.items()))
                found[f"{sample.name}{{{labels}}}"] = sample.value
                found[sample.name] = found.get(sample.name, 0.0) + (sample.value if labels else 0.0)
                if not labels:
                    found[sample.name] = sample.value
        return found

    async def metric(self, name: str) -> float:
        return (await self.metrics()).get(name, 0.0)

    def rss(self) -> int:
        """Resident memory in bytes."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    async def wait(self, timeout: float = STOP_SECONDS) -> int:
        """The exit code, once the process has ended by itself."""
        return await asyncio.wait_for(self.process.wait(), timeout)

    async def stop(self, timeout: float = STOP_SECONDS) -> int:
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        return await self.wait(timeout)

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    def sigstop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def sigcont(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            if self.process.returncode is None:
                self.sigcont()
            try:
                await self.stop()
            except TimeoutError:
                await self.kill()
                sys.stderr.write(f"server {self.name} did not stop within {STOP_SECONDS} s of SIGTERM\n")
        # pytest shows it where the test failed, and only there.
        sys.stderr.write(f"--- {self.name} ---\n{self.output()[-OUTPUT_CHARS:]}\n")
        self.log.unlink(missing_ok=True)


class Servers:
    """Any number of servers on one database: `await servers.start("a")`; all end with the test."""

    def __init__(self, database_url: str) -> None:
        self.database_url = database_url
        self.all: list[Server] = []

    async def start(
        self, name: str = "one", *, database_url: str = "", port: int | None = None, **environment: str
    ) -> Server:
        server = Server(database_url or self.database_url, name, port, **environment)
        self.all.append(server)
        return await server.start()

    async def leader(self) -> Server:
        """The one server that leads, once there is exactly one."""
        return (await eventually(self._leaders, 15, "exactly one leader"))[0]

    async def _leaders(self) -> list[Server]:
        running = [s for s in self.all if s.process.returncode is None]
        leading = [s for s in running if await s.metric("sobranie_leader") == 1]
        return leading if len(leading) == 1 else []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(server.__aexit__(kind, error, trace) for server in self.all))
