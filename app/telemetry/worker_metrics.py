"""The metrics of all workers of one port, whichever of them is asked.

Every worker answers for itself at a socket of its own in a directory that they share. Each series bears the
`server_id` of its worker: added up here, a counter would go back whenever a worker is started again. A worker that
does not answer is left out and shown as 0 in `sobranie_worker_up`.
"""

import asyncio
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import aiohttp
from aiohttp import web

ANSWER_SECONDS: Final = 2.0
_SAMPLE: Final = re.compile(rb"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)")
_UP: Final = b"""# HELP sobranie_worker_up 1 for each worker of this port that answers
# TYPE sobranie_worker_up gauge
"""


class Siblings:
    """`own` is this worker's socket; the others' are beside it, named for their servers. `render` makes its metrics."""

    def __init__(self, own: Path, render: Callable[[], bytes]) -> None:
        self._own = own
        self._render = render
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        async def answer(_: web.Request) -> web.Response:
            return web.Response(body=self._render())

        app = web.Application()
        app.router.add_get("/metrics", answer)
        app.router.add_get("/livez", _alive)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        self._own.unlink(missing_ok=True)  # of the process that was this worker before
        await web.UnixSite(self._runner, str(self._own)).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def render(self) -> bytes:
        """The metrics of all, in the Prometheus text format."""
        sockets = sorted({self._own, *self._own.parent.glob("*.sock")})
        answers = await asyncio.gather(*(self._ask(path) for path in sockets))
        return merged({path.stem.encode(): text for path, text in zip(sockets, answers, strict=True)})

    async def _ask(self, path: Path) -> bytes | None:
        return self._render() if path == self._own else await ask(path, "metrics")


async def ask(worker: Path, what: str, seconds: float = ANSWER_SECONDS) -> bytes | None:
    """What a worker answers at its socket; None where it does not."""
    try:
        timeout, connector = aiohttp.ClientTimeout(total=seconds), aiohttp.UnixConnector(str(worker))
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.get(f"http://worker/{what}") as answer,
        ):
            return await answer.read()
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None


async def lives(worker: Path) -> bool:
    """Whether a worker answers at its socket."""
    return await ask(worker, "livez") is not None


async def _alive(_: web.Request) -> web.Response:
    return web.Response(body=b"alive")


def merged(texts: dict[bytes, bytes | None]) -> bytes:
    """One exposition of those of several servers, by their ids: a family's samples stand together."""
    families: dict[bytes, tuple[list[bytes], list[bytes]]] = {}
    for server, text in texts.items():
        for name, heads, samples in _families((text or b"").splitlines()):
            known = families.setdefault(name, (heads, []))
            known[1].extend(_labelled(sample, server) for sample in samples)
    up = [b'sobranie_worker_up{server_id="%s"} %d' % (server, text is not None) for server, text in texts.items()]
    blocks = [b"\n".join([*heads, *samples]) for heads, samples in families.values()]
    return b"\n".join([*blocks, _UP + b"\n".join(up), b""])


def _families(lines: Iterable[bytes]) -> list[tuple[bytes, list[bytes], list[bytes]]]:
    found: list[tuple[bytes, list[bytes], list[bytes]]] = []
    for line in lines:
        if line.startswith(b"# HELP "):
            found.append((line.split(b" ")[2], [line], []))
        elif line.startswith(b"#"):
            found[-1][1].append(line)
        elif line:
            found[-1][2].append(line)
    return found


def _labelled(sample: bytes, server: bytes) -> bytes:
    match = _SAMPLE.fullmatch(sample)
    if match is None:
        return sample
    name, labels, value = match.groups()
    if labels and b'server_id="' in labels:
        return sample
    return b'%s{%s%sserver_id="%s"} %s' % (name, labels or b"", b"," if labels else b"", server, value)
