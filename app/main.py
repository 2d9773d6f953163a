"""The roof: it puts the edges together, and runs one server from its start to its stop.

Start: refuse what can't work, take the position of the event log, serve. Stop: tell the clients to come back, end the
tasks, close the connections. Only this module, app.backend (what is followed) and app.server know concrete edges.
"""

import asyncio
import shlex
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from app import __version__
from app.backend import open_backend
from app.clients.connection import Connection
from app.demo.pages import Demo, Sign
from app.model.errors import DatabaseAway, SettingsError, StartError
from app.model.observations import Noted, Observer, Served, Stopped, fan
from app.model.settings import Settings
from app.postgres.checks import check
from app.postgres.connect import connect
from app.process import workers
from app.process.resources import collect_rarely, give_back, raise_file_limit
from app.process.signals import ending_signals
from app.server import Server
from app.telemetry.logs import Logs
from app.telemetry.metrics import Metrics
from app.telemetry.worker_metrics import Siblings, lives
from app.web.health import flows
from app.web.hosts import on_loopback
from app.web.listen import hold_port
from app.web.origins import same_origin
from app.web.ports import Facts, Render
from app.web.server import Server as WebServer

DEMO_SECONDS: Final = 3600.0  # for which a token of the demo page holds
READY_SECONDS, READY_STEP = 5.0, 0.02
KEYS: Final = "SOBRANIE_JWT_SECRET, SOBRANIE_JWKS_URL or SOBRANIE_JWT_PUBLIC_KEY"
T = TypeVar("T")


def serve(settings: Settings) -> int:
    """Serve until a signal ends the process. Returns the exit code. Raises SettingsError and StartError."""
    return asyncio.run(_serve(guarded(settings)))


def keep(settings: Settings) -> int:
    """Serve with several processes (app.process.workers). Returns the exit code. Raises as `serve` does."""
    guarded(settings)
    logs = Logs(settings.log_format, settings.log_level, server_id=settings.server_id)
    logs.install()
    return workers.keep(settings, logs, hold_port, lives)


def guarded(settings: Settings) -> Settings:
    """The same settings: policies decide where there is a key, and a note says where there is none.

    Raises SettingsError where they would let the whole network in without being asked to, or nobody."""
    settings = replace(settings, rights=settings.keyed)
    if settings.keyed and not settings.own_key:
        return settings
    if settings.anonymous == "refuse" and not settings.own_key:
        raise SettingsError(f"SOBRANIE_ANONYMOUS=refuse, and no key that could let anybody in: set {KEYS}")
    if on_loopback(settings.host):
        reached = f"{settings.host} is reached from this machine alone"
    elif settings.anonymous == "allow":
        reached = f"whoever reaches {settings.host} gets in (SOBRANIE_ANONYMOUS=allow)"
    else:
        raise SettingsError(
            f"SOBRANIE_HOST={settings.host} is reached from other machines, and without a key everybody may see "
            f"everything: set {KEYS}, or SOBRANIE_ANONYMOUS=allow if that is meant"
        )
    if settings.own_key:
        return settings
    return replace(settings, notes=(*settings.notes, f"there is no key: everybody may see everything; {reached}"))


async def _serve(settings: Settings) -> int:
    stop = _asked_to_stop(settings)
    logs = Logs(settings.log_format, settings.log_level, server_id=settings.server_id)
    metrics = Metrics(settings.server_id)
    logs.install()
    observe = fan(logs, metrics)
    for note in settings.notes:
        observe(Noted(note))
    async with AsyncExitStack() as stack:
        server = await _run_unless_stopped(stop, _start(settings, observe, stack))
        if server is None:
            return 0
        raise_file_limit()
        siblings = Siblings(Path(settings.worker), metrics.render) if settings.worker else None
        render = siblings.render if siblings is not None else _as_coroutine(metrics.render)
        web = _web(settings, server, render, observe)
        if siblings is not None:  # until then the other workers serve the clients
            await _wait_until_ready(server.health, stop)
        await web.start()
        if siblings is not None:
            await siblings.start()
            stack.push_async_callback(siblings.stop)
        collect_rarely()
        give_back()
        observe(Served(web.url, __version__))
        await stop.wait()
        asked = time.monotonic()
        await web.stop()
    observe(Stopped(time.monotonic() - asked))
    return 0


def _asked_to_stop(settings: Settings) -> asyncio.Event:
    """An event that a signal sets. A worker's is also set by the end of its standard input: the keeper holds the other
    end and writes nothing, so the input ends when the keeper does."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in ending_signals():
        loop.add_signal_handler(number, stop.set)

    def orphaned() -> None:
        loop.remove_reader(sys.stdin)
        stop.set()

    if settings.worker is not None:
        loop.add_reader(sys.stdin, orphaned)
    return stop


def _web(settings: Settings, server: Server, metrics: Render, observe: Observer) -> WebServer:
    """The web edge on this server, with the demo page where that is wanted."""
    url = settings.database_url
    assert url is not None
    psql = shlex.join(["psql", settings.redacted])
    sign: Sign | None = None
    if settings.own_key:  # never with the key of an application: whoever reaches the page gets a token
        from app.access.sign import sign as signed

        sign = partial(signed, settings.jwt_secrets[0], seconds=DEMO_SECONDS)
    return WebServer(
        settings,
        connect=lambda sink, identity: Connection(sink, server.registry, identity),
        health=server.health,
        metrics=metrics,
        observe=observe,
        door=server.door,
        pages=Demo(lambda: connect(url, name="demo"), psql, same_origin, sign) if settings.demo else None,
    )


async def _wait_until_ready(health: Callable[[], Facts], stop: asyncio.Event) -> None:
    """Wait until changes can flow, for READY_SECONDS at most."""
    for _ in range(round(READY_SECONDS / READY_STEP)):
        if flows(health()) or stop.is_set():
            return
        await asyncio.sleep(READY_STEP)


def _as_coroutine(render: Callable[[], bytes]) -> Render:
    async def answer() -> bytes:
        return render()

    return answer


async def _run_unless_stopped(stop: asyncio.Event, start: Coroutine[Any, Any, T]) -> T | None:
    """The result of `start`. Where `stop` comes first `start` is cancelled, for it may wait for the network, and the
    result is None."""
    starting, stopping = asyncio.create_task(start), asyncio.create_task(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if stop.is_set() and not starting.done():
        starting.cancel()
        await asyncio.wait({starting})
        return None
    return starting.result()


async def _start(settings: Settings, observe: Observer, stack: AsyncExitStack) -> Server:
    """A server that has begun to follow its backend. `stack` stops both. Raises StartError."""
    url = settings.database_url
    assert url is not None
    await check(url)
    backend = open_backend(settings, observe)
    stack.push_async_callback(backend.event_log.close)
    try:
        head = await backend.event_log.head()
    except DatabaseAway as error:
        raise StartError(f"the database can't be reached: {error}") from error
    server = Server(settings, backend, head, observe)
    stack.push_async_callback(server.stop)
    server.start()
    return server
