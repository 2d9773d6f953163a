"""The HTTP server: the routes of the protocol, their handlers, and an orderly start and stop.

Invariants
- `start` serves, or raises StartError and leaves nothing open.
- `stop` tells every client to come back, and is over after a stated time, whatever the clients do.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from app.clients.door import Door
from app.core import wire
from app.model.errors import StartError
from app.model.observations import Observer
from app.model.settings import Settings
from app.web.admission import Admission
from app.web.capacity import Capacity
from app.web.clients import Clients
from app.web.credentials import Credentials
from app.web.crowds import Crowds
from app.web.health import Readiness, at_the_machine
from app.web.hosts import Hosts
from app.web.listen import why
from app.web.origins import Origins
from app.web.ports import Connect, Health, Pages, Render
from app.web.sse import EventStreams
from app.web.visitors import Visitors
from app.web.ws import WebSockets

BACKLOG: Final = 4096  # a fleet's clients come back at the same time, and wait in the kernel
ACCEPTS: Final = 1  # connections taken in one turn of the event loop: a handshake is a millisecond's work
KEEPALIVE: Final = 75.0  # seconds that an idle HTTP connection stays
STATIC: Final = Path(__file__).parent / "static"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Server:
    """`metrics` renders what /metrics answers; `pages` is None where the server has none of its own."""

    def __init__(
        self,
        settings: Settings,
        *,
        connect: Connect,
        health: Health,
        metrics: Render,
        observe: Observer,
        door: Door,
        pages: Pages | None = None,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        capacity = Capacity.here(settings.connections)
        crowds = Crowds(observe, settings.connections_per_address, settings.trusted_proxies)
        self._clients = Clients(observe, capacity.streams, crowds=crowds)
        self._visitors = Visitors(capacity.sockets, lambda: self._clients.sockets, observe)
        self._readiness = Readiness(health, settings.ready_grace)
        self._runners: list[web.AppRunner] = []
        self._pinging: asyncio.Task[None] | None = None
        self._observe = observe
        self._admission = self._under_names_of(settings.host)
        credentials = Credentials(door, self._admission.origins, cookie=settings.cookie, in_url=settings.token_in_url)
        self._ws = WebSockets(connect, self._clients, self._admission, credentials, observe)
        self._sse = EventStreams(connect, self._clients, self._admission, credentials, observe)
        self._pages = pages
        self.port = settings.port

    async def start(self) -> None:
        """Accept connections. `port` is then the real one, also where the setting is 0. Raises StartError."""
        settings = self._settings
        try:
            self.port = await self._serve(self._application(), settings.host, settings.port, "SOBRANIE_PORT")
            if settings.metrics_port is not None:
                host = settings.metrics_host or settings.host
                await self._serve(self._metrics_application(host), host, settings.metrics_port, "SOBRANIE_METRICS_PORT")
        except BaseException:
            await self._close()
            raise
        self._pinging = asyncio.create_task(self._clients.ping(settings.heartbeat), name="ping")

    async def stop(self) -> None:
        """Take no more connections, tell every client when to come back, and wait for them, a few seconds at most."""
        self._readiness.stopping = True
        for runner in self._runners:
            for site in list(runner.sites):
                await site.stop()
        await self._clients.stop()
        await self._close()

    @property
    def url(self) -> str:
        host = self._settings.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    def _application(self) -> web.Application:
        app = web.Application(
            client_max_size=wire.INBOUND_BYTES, middlewares=[self._visit, self._admission.only_our_names]
        )
        app.on_response_prepare.append(_anonymous)
        routes = app.router
        routes.add_get("/realtime/ws", self._ws.handle, allow_head=False)
        routes.add_get("/realtime/events", self._sse.handle, allow_head=False)
        routes.add_options("/realtime/events", self._sse.preflight)
        routes.add_get("/realtime/client.js", _client)
        routes.add_options("/realtime/client.js", _client_preflight)
        self._add_health(app, self._by_an_operator)
        if self._settings.metrics_port is None:
            routes.add_get("/metrics", self._render)
        if self._pages is not None:
            self._pages.add_to(app)
        return app

    def _metrics_application(self, host: str) -> web.Application:
        admission = self._under_names_of(host)
        app = web.Application(middlewares=[self._visit, admission.only_our_names])
        app.on_response_prepare.append(_anonymous)
        app.router.add_get("/metrics", self._render)
        self._add_health(app, admission.hosts.allow)
        return app

    def _under_names_of(self, host: str) -> Admission:
        origins = Origins(self._settings.origins)
        return Admission(Hosts(host, self._settings.hosts, origins), origins, self._observe)

    def _add_health(self, app: web.Application, trusted: Callable[[web.Request], bool]) -> None:
        app.router.add_get("/livez", self._readiness.livez)
        app.router.add_get("/readyz", self._readiness.readyz(trusted))

    def _by_an_operator(self, request: web.Request) -> bool:
        return at_the_machine(request) and self._admission.hosts.allow(request)

    @web.middleware
    async def _visit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._visitors.begin_request(request.protocol)
        try:
            return await handler(request)
        finally:
            self._visitors.end_request(request.protocol)

    async def _render(self, _: web.Request) -> web.Response:
        return web.Response(body=await self._metrics(), headers={"Content-Type": _METRICS_TYPE})

    async def _serve(self, app: web.Application, host: str, port: int, setting: str) -> int:
        logger = logging.getLogger("aiohttp.server")
        logger.addFilter(_not_bad_http)
        runner = web.AppRunner(
            app,
            access_log=None,
            logger=logger,
            handler_cancellation=True,  # how an event stream's handler learns that its client has gone
            keepalive_timeout=KEEPALIVE,
            max_line_size=wire.INBOUND_BYTES,  # an event stream names its channels there
            shutdown_timeout=1.0,
        )
        self._runners.append(runner)
        await runner.setup()
        try:
            shared = self._settings.worker is not None
            site = _Site(runner, host, port, backlog=ACCEPTS, reuse_port=shared)
            await site.serve(self._visitors)
        except OSError as problem:
            raise StartError(why(problem, host, port, setting)) from problem
        address: tuple[str, int] = runner.addresses[0]
        return address[1]

    async def _close(self) -> None:
        self._visitors.close()
        if self._pinging is not None:
            self._pinging.cancel()
        for runner in self._runners:
            await runner.cleanup()
        self._runners.clear()


class _Site(web.TCPSite):
    """asyncio has one number for the length of the kernel's queue and for how many connections it takes at once. Here
    the queue is long, and few are taken at once."""

    async def serve(self, visitors: Visitors) -> None:
        """In place of `start`: each connection is one of the visitors."""
        await web.BaseSite.start(self)
        assert self._runner.server is not None
        self._server = await asyncio.get_running_loop().create_server(
            visitors.factory(self._runner.server),
            self._host,
            self._port,
            backlog=self._backlog,
            reuse_address=self._reuse_address,
            reuse_port=self._reuse_port,
        )
        for listening in self._server.sockets:
            with listening.dup() as same:
                same.listen(BACKLOG)


def _not_bad_http(line: logging.LogRecord) -> bool:
    """Whether the line tells of anything but a request that is no HTTP. That is its client's affair, and the line would
    hold the client's bytes."""
    return line.exc_info is None or not isinstance(line.exc_info[1], HttpProcessingError)


async def _anonymous(_: web.Request, response: web.StreamResponse) -> None:
    """Hide from strangers which libraries this server is made of, and their versions."""
    response.headers["Server"] = "sobranie"


async def _client(_: web.Request) -> web.FileResponse:
    """The browser client; pages of other origins may import it."""
    headers = {"Content-Type": "text/javascript; charset=utf-8", "Cache-Control": "no-cache"}
    return web.FileResponse(STATIC / "client.js", headers=headers | {"Access-Control-Allow-Origin": "*"})


async def _client_preflight(_: web.Request) -> web.Response:
    names = ("Origin", "Methods", "Headers")
    return web.Response(status=204, headers={f"Access-Control-Allow-{name}": "*" for name in names})
