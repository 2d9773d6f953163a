"""WebSocket clients. aiohttp shakes hands, reads and answers pings; frames are written, and the end made, by the sink.

Invariants: the messages of one connection are handled strictly in order; whatever comes in, the answer is a message or
a close code of the protocol, never an exception.
"""

import asyncio
from contextlib import suppress

from aiohttp import WSCloseCode, WSMsgType, web

from app import wire
from app.errors import CloseCode, RateLimited
from app.observe import ConnectionFailed, Observer, Refused
from app.web.clients import Clients
from app.web.origins import Origins
from app.web.ports import Client, Connect
from app.web.rate import Rate
from app.web.sinks import HIGH_WATER, LINGER, WebSocketSink


class _Socket(web.WebSocketResponse):
    """aiohttp closes from within `receive`, in ways that may wait for ever or cut the close frame off; the sink's does
    not, so `close` is only remembered here."""

    def __init__(self) -> None:
        # aiohttp refuses from this size on, the protocol beyond it.
        super().__init__(compress=False, max_msg_size=wire.INBOUND_BYTES + 1, autoclose=False)
        self.failure: int | None = None

    async def close(self, *, code: int = WSCloseCode.OK, message: bytes = b"", drain: bool = True) -> bool:
        if self.failure is None:
            self.failure = code
        return True


class WebSockets:
    """The handler of GET /realtime/ws."""

    def __init__(self, connect: Connect, clients: Clients, origins: Origins, observe: Observer) -> None:
        self._connect = connect
        self._clients = clients
        self._origins = origins
        self._observe = observe

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if not self._origins.allow(request):
            self._observe(ConnectionFailed("ws", "origin"))
            raise web.HTTPForbidden(text="pages of this origin may not connect (SOBRANIE_ORIGINS)\n")
        ws = _Socket()
        if not ws.can_prepare(request):
            self._observe(ConnectionFailed("ws", "handshake"))
            raise web.HTTPUpgradeRequired(text="this is a WebSocket\n", headers={"Upgrade": "websocket"})
        writer = await ws.prepare(request)
        sink = WebSocketSink(request)
        sink.begin(writer)
        with self._clients.joined(sink):
            await self._serve(ws, sink)
        return ws

    async def _serve(self, ws: _Socket, sink: WebSocketSink) -> None:
        client = self._connect(sink)
        try:
            client.open()
            failure = await self._read(ws, sink, client)
        finally:
            await client.close()
        if failure is None:
            return
        self._observe(ConnectionFailed("ws", "too_large" if failure == CloseCode.TOO_LARGE else "protocol"))
        sink.shut(failure, "a message may have 65536 bytes" if failure == CloseCode.TOO_LARGE else "")
        # What the peer is still sending is thrown away unread; a socket closed at once would answer it with a reset,
        # which destroys the close frame. The peer's own end cancels this handler.
        sink.finish()
        await asyncio.sleep(LINGER)

    async def _read(self, ws: _Socket, sink: WebSocketSink, client: Client) -> int | None:
        """Handle messages until the connection ends; the close code where the peer broke the protocol of WebSocket."""
        rate = Rate()
        while True:
            if sink.backlog() > HIGH_WATER and not sink.closed:
                # Who does not take the answers is not listened to: they would pile up here.
                with suppress(ConnectionResetError):
                    await sink.drained()
            message = await ws.receive()
            if message.type is WSMsgType.TEXT:
                if not sink.closed and self._within(rate, sink, message.data):
                    await client.receive(message.data)
            elif message.type is WSMsgType.BINARY:
                if not sink.closed and self._within(rate, sink, ""):
                    client.bad_request("messages are text, not binary")
            elif message.type is WSMsgType.CLOSE:
                sink.shut(message.data or WSCloseCode.OK)
                return None
            else:
                return ws.failure if message.type is WSMsgType.ERROR and ws.failure != WSCloseCode.OK else None

    def _within(self, rate: Rate, sink: WebSocketSink, text: str) -> bool:
        retry_after_ms = rate.take()
        if not retry_after_ms:
            return True
        self._observe(Refused(RateLimited.code))
        problem = RateLimited("too many messages on this connection")
        sink.write([wire.error(problem, wire.request_id(text), retry_after_ms=retry_after_ms)])
        if rate.exhausted:
            sink.close(CloseCode.TOO_MANY, "too many messages")
        return False
