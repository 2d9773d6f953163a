"""`serve --workers N`: as many servers on one port, each a process of its own, and the keeper that keeps them running.

Invariants
- The keeper holds the port before the first worker starts, and nobody else does.
- A worker that ends is started again, after longer and longer pauses where it ends at once.
- A worker that serves and then answers nobody is killed, and started again.
- A worker that can't be started for now is tried again, and the others go on.
- A worker that refuses to start (exit code 1 or 2) before any has served ends them all, with its exit code.
- Whatever ends the keeper ends the workers: each watches its standard input, which ends with the keeper.
"""

import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from app.model.errors import StartError
from app.model.observations import Observer, WorkerEnded, WorkerHeard, WorkerHung, WorkerNotStarted, WorkerStarted
from app.model.settings import Settings
from app.process.signals import ending_signals
from app.stream.backoff import backoff

ROOT: Final = Path(__file__).resolve().parents[2]
STOP_SECONDS: Final = 15.0
LONGEST_PATH: Final = 100  # bytes of a Unix socket's path: macOS takes 103, Linux 107
STEADY_SECONDS: Final = 10.0  # a worker that ran for so long is started again at once
ASK_SECONDS: Final = 2.0  # how often a worker is asked whether it lives
HUNG_SECONDS: Final = 15.0  # without an answer, once it has served


# A port that is held for those who share it, from (host, port, the setting to name in an error). Raises StartError.
Hold = Callable[[str, int, str], AbstractContextManager[int]]
# Whether the worker with this socket answers.
Lives = Callable[[Path], Awaitable[bool]]


def keep(settings: Settings, observe: Observer, hold: Hold, lives: Lives) -> int:
    """Serve with `settings.workers` processes until a signal. Returns the exit code. Raises StartError."""
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(hold(settings.host, settings.port, "SOBRANIE_PORT"))
        metrics_port = settings.metrics_port
        if metrics_port is not None:
            host = settings.metrics_host or settings.host
            metrics_port = stack.enter_context(hold(host, metrics_port, "SOBRANIE_METRICS_PORT"))
        try:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sobranie-")))
        except OSError as problem:
            raise StartError(
                f"workers need a directory for their sockets, and {problem.strerror}: set TMPDIR"
            ) from problem
        if len(os.fsencode(directory / f"{settings.server_id}-{settings.workers}.sock")) > LONGEST_PATH:
            raise StartError(f"the path of TMPDIR is too long for the workers' sockets: {directory.parent}")
        return asyncio.run(Keeper(settings, observe, lives, port, metrics_port, directory).run())


class Keeper:
    def __init__(
        self, settings: Settings, observe: Observer, lives: Lives, port: int, metrics_port: int | None, directory: Path
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._environment = os.environ | {"DATABASE_URL": settings.database_url or "", "SOBRANIE_PORT": str(port)}
        self._environment["SOBRANIE_DEMO"] = "1" if settings.demo else "0"
        if metrics_port is not None:
            self._environment["SOBRANIE_METRICS_PORT"] = str(metrics_port)
        if settings.own_key:
            self._environment["SOBRANIE_JWT_SECRET"] = ",".join(settings.jwt_secrets)
            self._environment["SOBRANIE_ANONYMOUS"] = "allow" if settings.lets_strangers_in else "refuse"
        self._environment.pop("SOBRANIE_WORKERS", None)
        self._observe = observe
        self._lives = lives
        self._stop = asyncio.Event()
        self._code = 0

    async def run(self) -> int:
        for number in ending_signals():
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)
        await asyncio.gather(*(self._keep_worker(n) for n in range(1, self._settings.workers + 1)))
        return self._code

    async def _keep_worker(self, number: int) -> None:
        """Run one worker, and start it again whenever it ends."""
        name = f"{self._settings.server_id}-{number}"
        pauses = backoff()
        while not self._stop.is_set():
            began = time.monotonic()
            await self._run_worker(name)
            if time.monotonic() - began > STEADY_SECONDS:
                pauses = backoff()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), next(pauses))

    async def _run_worker(self, name: str) -> None:
        """Run a worker from its start to its end."""
        try:
            process = await self._spawn(name)
        except OSError as problem:
            self._observe(WorkerNotStarted(name, problem.strerror or str(problem)))
            return
        self._observe(WorkerStarted(name, process.pid))
        watch = asyncio.create_task(self._watch(name, process))
        code = await self._wait_for_end(name, process)
        watch.cancel()
        if self._stop.is_set():
            return
        self._observe(WorkerEnded(name, process.pid, code))
        if code in (1, 2) and not self._served():
            self._code = self._code or code
            self._stop.set()

    def _served(self) -> bool:
        """Whether any worker has served yet. A worker makes its socket when it serves, and the file may outlive it.
        Where the directory is gone somebody else removed it, so nobody can tell, and the answer is yes."""
        return not self._directory.exists() or any(self._directory.iterdir())

    async def _watch(self, name: str, process: asyncio.subprocess.Process) -> None:
        """Kill a worker that hangs, because the kernel goes on giving it clients."""
        heard: float | None = None  # a start may take its time
        while True:
            await asyncio.sleep(ASK_SECONDS)
            if await self._lives(self._socket(name)):
                if heard is None:
                    self._observe(WorkerHeard(name, process.pid))
                heard = time.monotonic()
            elif heard is not None and time.monotonic() - heard > HUNG_SECONDS:
                self._observe(WorkerHung(name, process.pid, time.monotonic() - heard))
                process.kill()
                return

    def _socket(self, name: str) -> Path:
        return self._directory / f"{name}.sock"

    async def _spawn(self, name: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "app", "serve", "--worker", str(self._socket(name)),
            cwd=ROOT, env=self._environment | {"SOBRANIE_SERVER_ID": name}, stdin=asyncio.subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C at the terminal is the keeper's alone
        )  # fmt: skip

    async def _wait_for_end(self, name: str, process: asyncio.subprocess.Process) -> int:
        """Wait until the worker has ended, and ask it to when the keeper is asked. Returns its exit code."""
        ended, stopping = asyncio.create_task(process.wait()), asyncio.create_task(self._stop.wait())
        await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not ended.done():
            process.terminate()
            with contextlib.suppress(TimeoutError):
                return await asyncio.wait_for(asyncio.shield(ended), STOP_SECONDS)
            self._observe(WorkerHung(name, process.pid, STOP_SECONDS))
            process.kill()
        return await ended
