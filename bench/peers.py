"""Other ways to bring the same bytes to the same number of WebSocket clients, driven at the same rate.

The floor (C, one send each), Bun's native publish and Elysia have a timer inside and take "go RATE SECONDS BURST FILE"
on stdin; nchan is sent each message by POST, which is its way in.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from bench import tools
from bench.stage import Stage, say
from bench.swarm import Swarm
from harness.cluster import clean_environment, free_port
from harness.facts import eventually, pause

GO_SECONDS = 60.0
MARK = re.compile(rb"@t\d{16}")
NGINX = """
daemon off; master_process off; pid {dir}/pid; error_log stderr crit;
load_module {module};
events {{ worker_connections 20000; }}
http {{
  access_log off; nchan_max_reserved_memory 256M;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    client_body_temp_path {dir}/b; client_max_body_size 1m; client_body_buffer_size 1m;
    location = /publish {{ nchan_publisher; nchan_channel_id posts; nchan_message_buffer_length 20; }}
    location = /ws {{ nchan_subscriber websocket; nchan_channel_id posts; nchan_websocket_ping_interval 0; }}
  }}
}}
"""


@dataclass
class Peer:
    name: str
    process: asyncio.subprocess.Process
    port: int
    dir: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    async def go(self, rate: float, seconds: float, burst: int, message: bytes) -> None:
        """Sends `message` to all clients, `burst` times at each of `rate` ticks a second."""
        file = self.dir / "message"
        file.write_bytes(message)
        assert self.process.stdin is not None
        self.process.stdin.write(f"go {rate} {seconds} {burst} {file}\n".encode())
        await self._line()

    async def _line(self) -> bytes:
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), GO_SECONDS)
        if not line:
            raise tools.Missing(f"{self.name} ended")
        return line

    async def listening(self) -> None:
        await self._line()


class Nchan(Peer):
    async def go(self, rate: float, seconds: float, burst: int, message: bytes) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with aiohttp.ClientSession(f"http://127.0.0.1:{self.port}") as session:
            for tick in range(round(rate * seconds)):
                await pause(max(0.0, began + tick / rate - loop.time()))
                stamped = MARK.sub(b"@t%016d" % (time.time() * 1e6), message)
                for _ in range(burst):
                    async with session.post("/publish", data=stamped) as answer:
                        assert answer.status < 300, answer.status

    async def listening(self) -> None:
        async def answers() -> bool:
            try:
                (await asyncio.open_connection("127.0.0.1", self.port))[1].close()
            except OSError:
                return False
            return True

        await eventually(answers, 10, "nginx listens")


async def _start(kind: type[Peer], name: str, directory: Path, port: int, *command: str) -> Peer:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=tools.KEPT,
        env=clean_environment(NODE_ENV="production"),
    )
    peer = kind(name, process, port, directory)
    await peer.listening()
    return peer


async def floor(stage: Stage) -> Peer:
    port = free_port()
    return await _start(Peer, "floor", stage.folder("floor"), port, tools.compiled("floor"), str(port))


async def bun(stage: Stage) -> Peer:
    return await _script(stage, "bun")


async def elysia(stage: Stage) -> Peer:
    return await _script(stage, "elysia")


async def _script(stage: Stage, name: str) -> Peer:
    # A copy beside node_modules, where Bun looks for packages.
    program, port = tools.bun(), free_port()
    for script in (name, "drive"):
        (tools.KEPT / f"{script}.js").write_bytes((tools.HERE / "peers" / f"{script}.js").read_bytes())
    return await _start(Peer, name, stage.folder(name), port, program, f"{name}.js", str(port))


async def nchan(stage: Stage) -> Peer:
    program, port, directory = tools.nginx(), free_port(), stage.folder("nchan")
    file = directory / "nginx.conf"
    file.write_text(NGINX.format(dir=directory, module=tools.NCHAN, port=port))
    return await _start(Nchan, "nchan", directory, port, program, "-p", str(directory), "-c", str(file), "-e", "stderr")


STARTS = {"floor": floor, "bun": bun, "elysia": elysia, "nchan": nchan}


@asynccontextmanager
async def running(stage: Stage, names: Sequence[str], count: int) -> AsyncIterator[list[tuple[Peer, Swarm]]]:
    """The peers that are to be had, each with `count` clients. Who is missing is said."""
    async with AsyncExitStack() as stack:
        found = []
        for name in names:
            try:
                peer = await STARTS[name](stage)
            except (tools.Missing, OSError, TimeoutError) as problem:
                say(f"  without {name}: {problem}")
                continue
            stack.push_async_callback(_end, peer)
            swarm = await Swarm.open(peer.port, count, channels=(), path="/ws", ready="\r\n\r\n")
            found.append((peer, await stack.enter_async_context(swarm)))
        yield found


async def _end(peer: Peer) -> None:
    if peer.process.returncode is None:
        peer.process.kill()
    await peer.process.wait()
