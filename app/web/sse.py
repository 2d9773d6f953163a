"""Server-sent events: the same messages, subscribed to by the URL.

An EventSource gives up for good on any status but 200. So only an error that trying again does not mend is a 4xx (with
an `error` message as its JSON body). A passing error is 200 with `retry:`, an `error` message, and the end of the
stream.
"""

import contextlib
import random
from typing import Final

from aiohttp import web

from app.core import wire
from app.model.channel import check_distinct
from app.model.errors import (
    BadRequest,
    ClientError,
    CloseCode,
    DatabaseAway,
    Forbidden,
    RateLimited,
    Unauthorized,
    Unavailable,
)
from app.model.observations import ConnectionFailed, Observer
from app.web.admission import Admission
from app.web.clients import Clients
from app.web.credentials import PARAMETER, Credentials, final
from app.web.peer import leave
from app.web.ports import Client, Connect
from app.web.sinks import EventSink

_PARAMETERS: Final = ("channel", "position", "snapshot", "lastEventId")
# Where scripts that stand in for EventSource put the header's value, for a header of their own would be a preflight:
# event-source-polyfill, Mercure's clients, and those of the time of XDomainRequest.
_LAST_EVENT_ID: Final = ("lastEventId", "lastEventID", "Last-Event-ID", "last-event-id", "evs_last_event_id")
_HEADERS: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}
_STATUS: Final[dict[type[ClientError], int]] = {Unauthorized: 401, Forbidden: 403}


class EventStreams:
    """The handler of GET /realtime/events."""

    def __init__(
        self, connect: Connect, clients: Clients, admission: Admission, credentials: Credentials, observe: Observer
    ) -> None:
        self._connect = connect
        self._clients = clients
        self._admission = admission
        self._credentials = credentials
        self._origins = admission.origins
        self._observe = observe

    async def handle(self, request: web.Request) -> web.StreamResponse:
        refusal = self._admission.refusal(request, "sse")
        if refusal is not None:
            return self._turn_away(request, refusal)
        try:
            channels, position, snapshot = _asked(request, self._credentials.in_url)
        except BadRequest as problem:
            return self._refuse(request, problem)
        with contextlib.suppress(ConnectionResetError):
            if self._clients.has_no_room("sse"):
                full = Unavailable("this server has as many clients as it may")
                await self._send_away(request, full, random.randint(5000, 15000))
            else:
                try:
                    with self._clients.expecting():
                        answer = await self._stream(request, channels, position, snapshot)
                except RateLimited as problem:
                    self._observe(ConnectionFailed("sse", problem.code))
                    await self._send_away(request, problem, problem.retry_after_ms)
                    answer = None
                if answer is not None:
                    return answer
        return await leave(request)

    async def _stream(
        self, request: web.Request, channels: list[str], position: str | None, snapshot: bool
    ) -> web.Response | None:
        """Subscribe, and begin the stream. Returns the answer to send where there will be none.

        Raises ConnectionResetError where the client has gone, and RateLimited before anything is sent."""
        address = self._clients.crowds.of(request)
        self._clients.crowds.arrive(address)
        try:
            identity = await self._credentials.identify(request, "sse")
        except (Unauthorized, Unavailable) as problem:
            if final(problem):
                return self._refuse(request, problem)
            self._observe(ConnectionFailed("sse", problem.code))
            await self._send_away(request, problem, random.randint(1000, 3000))
            return None
        sink = EventSink(request)
        client = self._connect(sink, identity)
        streaming = False
        try:
            self._clients.seat(sink, address)
            client.open()
            try:
                await client.subscribe(channels, position, snapshot=snapshot)
            except Unavailable as problem:
                self._fail(sink, problem)
            except DatabaseAway:
                self._fail(sink, Unavailable("the database can't be reached at the moment"))
            except ClientError as problem:
                return self._refuse(request, problem)
            await self._begin(request)
            self._take_over(request, sink, client)
            streaming = True
        finally:
            if not streaming:
                self._clients.unseat(sink)
                client.close()
        return None

    async def _send_away(self, request: web.Request, problem: ClientError, retry_ms: int) -> None:
        """The client is told, and comes back by itself. Raises ConnectionResetError where it has gone."""
        sink = EventSink(request)
        sink.write([wire.error(problem)])
        sink.close(CloseCode.GOING_AWAY, problem.code)
        await self._begin(request)
        self._clients.see_off(sink, request)
        sink.begin(retry_ms)

    async def _begin(self, request: web.Request) -> None:
        """Send the head of the answer."""
        response = web.StreamResponse(headers=_HEADERS | self._origins.headers(request))
        response.force_close()  # an event stream is the last thing on its connection
        await response.prepare(request)

    def _take_over(self, request: web.Request, sink: EventSink, client: Client) -> None:
        def left() -> None:
            client.close()
            self._clients.leave(sink)

        sink.peer.take(request, left=left)
        self._clients.join(sink)
        sink.begin(random.randint(1000, 3000))

    def _fail(self, sink: EventSink, problem: ClientError) -> None:
        """Answer a passing error: the stream is an `error` message and its end, and the client comes back by itself."""
        self._observe(ConnectionFailed("sse", problem.code))
        sink.write([wire.error(problem)])
        sink.close(CloseCode.GOING_AWAY, problem.message)

    def _refuse(self, request: web.Request, problem: ClientError) -> web.Response:
        self._observe(ConnectionFailed("sse", problem.code))
        status = _STATUS.get(type(problem), 400)
        headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
        return _problem(status, problem, headers | self._origins.headers(request))

    def _turn_away(self, request: web.Request, problem: ClientError) -> web.Response:
        """Answer 403, and let the page read why. Otherwise it would take the server for one that is away."""
        origin = request.headers.get("Origin")
        readable = {"Access-Control-Allow-Origin": origin} if origin is not None else {}
        return _problem(403, problem, readable | {"Vary": "Origin"})

    async def preflight(self, request: web.Request) -> web.StreamResponse:
        """The handler of OPTIONS /realtime/events: a browser asks before it sends a header of the page's own."""
        refusal = self._admission.refusal(request, "sse")
        if refusal is not None:
            return self._turn_away(request, refusal)
        return web.Response(status=204, headers=self._origins.preflight(request))


def _problem(status: int, problem: ClientError, headers: dict[str, str]) -> web.Response:
    return web.Response(
        status=status,
        body=wire.error(problem).json,
        content_type="application/json",
        headers={"Cache-Control": "no-store"} | headers,
    )


def _asked(request: web.Request, token_in_url: bool) -> tuple[list[str], str | None, bool]:
    """Channels, position, and whether rows are wanted. Raises BadRequest, which names the parameter."""
    query = request.query
    for name in query:
        if name == PARAMETER and token_in_url:
            continue
        if name not in _PARAMETERS and name not in _LAST_EVENT_ID:
            raise BadRequest(f"unknown parameter {name!r}; there are {', '.join(_PARAMETERS)}"[:200], field=name[:80])
    if query.get("snapshot", "0") not in ("0", "1"):
        raise BadRequest("'snapshot' is 1 or 0", field="snapshot")
    channels = query.getall("channel", [])
    if not channels:
        raise BadRequest("name at least one channel: ?channel=posts", field="channel")
    check_distinct(channels, "channel")
    # EventSource repeats the URL when it reconnects, and with it the position that the page began with.
    return channels, _position(request), query.get("snapshot") == "1"


def _position(request: web.Request) -> str | None:
    known = [
        request.headers.get("Last-Event-ID"),
        *map(request.query.get, _LAST_EVENT_ID),
        request.query.get("position"),
    ]
    return next(filter(None, known), None)
