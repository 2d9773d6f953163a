"""WebSocket clients: the handshake by aiohttp and wsproto, and then a socket of our own (app.web.peer).

Invariant: whatever a client sends, what follows is a message or a close code of the protocol, never an exception.
"""

import contextlib
import random
from typing import Final

from aiohttp import web
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection
from wsproto.utilities import RemoteProtocolError

from app.core import wire
from app.model.claims import Identity
from app.model.errors import ClientError, CloseCode, Forbidden, RateLimited, Unauthorized
from app.model.observations import ConnectionFailed, Limited, Observer
from app.web.admission import Admission
from app.web.clients import Clients
from app.web.credentials import Credentials
from app.web.peer import leave
from app.web.ports import Connect
from app.web.sinks import WebSocketSink
from app.web.talk import Talk

# The headers that wsproto is given. It raises errors of many kinds where it can't read one of the others.
_HANDSHAKE: Final = (b"host", b"connection", b"upgrade", b"sec-websocket-version", b"sec-websocket-key")
_CODES: Final = {
    Forbidden: CloseCode.FORBIDDEN,
    Unauthorized: CloseCode.UNAUTHORIZED,
    RateLimited: CloseCode.TOO_MANY,
}


class WebSockets:
    """The handler of GET /realtime/ws."""

    def __init__(
        self, connect: Connect, clients: Clients, admission: Admission, credentials: Credentials, observe: Observer
    ) -> None:
        self._connect = connect
        self._clients = clients
        self._admission = admission
        self._credentials = credentials
        self._observe = observe

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if self._clients.has_no_room("ws"):
            raise _no_room()
        address = self._clients.crowds.of(request)
        try:
            self._clients.crowds.arrive(address)
        except RateLimited as flood:
            self._observe(ConnectionFailed("ws", flood.code))
            raise _flooding(flood) from flood
        head = self._accept(request)
        refusal: ClientError | None = self._admission.refusal(request, "ws")
        identity = None
        if refusal is None:
            try:
                identity = await self._identify(request)
            except ClientError as problem:
                refusal = problem
        with contextlib.suppress(ConnectionResetError):
            if refusal is None:
                self._take_over(request, head, identity, address)
            else:
                self._turn_away(request, head, refusal)
        return await leave(request)

    async def _identify(self, request: web.Request) -> Identity | None:
        """Who the client is; None for one that has to show a token first. Raises Unauthorized or Unavailable, and
        HTTPServiceUnavailable where too many have to."""
        try:
            with self._clients.expecting():
                identity = await self._credentials.identify(request, "ws")
        except ClientError as problem:
            self._observe(ConnectionFailed("ws", problem.code))
            raise
        if identity is None and self._credentials.full:
            self._observe(ConnectionFailed("ws", "waiting"))
            self._observe(Limited("waiting"))
            raise _no_room()
        return identity

    def _accept(self, request: web.Request) -> bytes:
        """The head of the answer to a handshake. Raises HTTPUpgradeRequired where it is none."""
        handshake = WSConnection(ConnectionType.SERVER)
        try:
            headers = [(name, value) for name, value in request.raw_headers if name.lower() in _HANDSHAKE]
            handshake.initiate_upgrade_connection(headers, request.raw_path)
            next(handshake.events(), None)
            return handshake.send(AcceptConnection())
        except (RemoteProtocolError, UnicodeError) as problem:
            self._observe(ConnectionFailed("ws", "handshake"))
            raise web.HTTPUpgradeRequired(
                text=f"this is a WebSocket: {problem}\n",
                headers={"Upgrade": "websocket", "Sec-WebSocket-Version": "13"},
            ) from problem

    def _take_over(self, request: web.Request, head: bytes, identity: Identity | None, address: bytes | None) -> None:
        """Serve the client, or tell it that its address or its user has too many. Raises ConnectionResetError where the
        client has gone."""
        sink = WebSocketSink(request)
        client = self._connect(sink, identity)
        talk = Talk(sink, client, self._clients, self._observe)
        sink.control(head)
        try:
            self._clients.seat(sink, address)
            client.open()
        except RateLimited as problem:
            self._observe(ConnectionFailed("ws", problem.code))
            self._clients.unseat(sink)
            client.close()
            self._end(request, sink, problem)
            return
        self._clients.join(sink)
        sink.peer.take(request, hear=talk.hear, left=talk.left)

    def _turn_away(self, request: web.Request, head: bytes, refusal: ClientError) -> None:
        """Complete the handshake, and refuse with a close code. A browser shows its page neither status nor text
        of a handshake that failed, and a page that knows no reason tries for ever. Raises ConnectionResetError."""
        sink = WebSocketSink(request)
        sink.control(head)
        self._end(request, sink, refusal)

    def _end(self, request: web.Request, sink: WebSocketSink, refusal: ClientError) -> None:
        if not isinstance(refusal, Forbidden):
            sink.write([wire.error(refusal)])
        sink.shut(_CODES.get(type(refusal), CloseCode.RESTART), refusal.message)
        sink.finish()
        self._clients.see_off(sink, request)


def _no_room() -> web.HTTPServiceUnavailable:
    """A browser tells its page the same of this as of a lost connection, and the page comes back. To accept the
    handshake first would take what there is too little of."""
    headers = {"Retry-After": str(random.randint(5, 15))}
    return web.HTTPServiceUnavailable(text="this server has as many clients as it may\n", headers=headers)


def _flooding(flood: RateLimited) -> web.HTTPTooManyRequests:
    headers = {"Retry-After": str(-(-flood.retry_after_ms // 1000))}
    return web.HTTPTooManyRequests(text=f"{flood.message}\n", headers=headers)
