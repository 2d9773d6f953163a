"""An echo behind the product's own web edge: what Autobahn's cases talk to.

Everything that reads and writes a WebSocket is the product's (app/web/): the handshake, the parser, the order of
messages, the outbound frames, the end. In place of a client's connection to the stream there is an echo, and three
limits of the product are lifted, without which no echo could be: a message may be large, there may be many of them, and
the bytes of a binary message, which the product refuses unread, are kept.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from aiohttp import web
from wsproto.events import BytesMessage, TextMessage

from app.clients.door import Door
from app.clients.outbox import Sink
from app.core.wire import frame_head
from app.model.claims import Identity
from app.model.observations import Failed, Observation
from app.web.admission import Admission
from app.web.clients import Clients
from app.web.credentials import Credentials
from app.web.hosts import Hosts
from app.web.origins import Origins
from app.web.rate import Rate
from app.web.sinks import WebSocketSink
from app.web.talk import Talk
from app.web.ws import WebSockets

LARGEST = 64 << 20  # bytes of a message; Autobahn's have 16 MiB at most


class Echo:
    """A client of the web edge (app.web.ports.Client)."""

    def __init__(self, sink: Sink, _: Identity | None) -> None:
        assert isinstance(sink, WebSocketSink)
        self._sink = sink

    def open(self) -> None:
        pass

    async def receive(self, text: str) -> None:
        data = text.encode()
        self._sink.control(frame_head(len(data)) + data)

    def send_bytes(self, data: bytes) -> None:
        head = frame_head(len(data))
        self._sink.control(bytes([0x82]) + head[1:] + data)

    async def subscribe(self, channels: list[str], position: str | None, *, snapshot: bool = False) -> None:
        raise AssertionError("an echo has no channels")

    def bad_request(self, message: str) -> None:
        raise AssertionError("an echo takes everything")

    def close(self) -> None:
        pass


class EchoTalk(Talk):
    """The product's, with the bytes of binary messages."""

    __slots__ = ("_bytes", "_echoes")

    def _gather(self, event: TextMessage | BytesMessage) -> None:
        if isinstance(event, BytesMessage):
            self._kept().extend(event.data)
        super()._gather(event)
        if isinstance(event, BytesMessage) and event.message_finished:
            self._waiting().append(bytes(self._kept()))
            self._kept().clear()

    async def _answer(self, text: str | None) -> None:
        if text is not None:
            await super()._answer(text)
        else:
            assert isinstance(self._client, Echo)
            self._client.send_bytes(self._waiting().pop(0))

    def _kept(self) -> bytearray:
        if not hasattr(self, "_bytes"):
            self._bytes = bytearray()
        return self._bytes

    def _waiting(self) -> list[bytes]:
        if not hasattr(self, "_echoes"):
            self._echoes: list[bytes] = []
        return self._echoes


@contextmanager
def lifted() -> Iterator[None]:
    """Without the limits that an echo can't have."""
    with (
        patch("app.core.wire.INBOUND_BYTES", LARGEST),
        patch.object(Rate, "take", lambda _: 0),
        patch("app.web.ws.Talk", EchoTalk),
    ):
        yield


def application(failures: list[Failed]) -> web.Application:
    """`failures` gets what the edge did not foresee: there must be none."""

    def observe(fact: Observation) -> None:
        if isinstance(fact, Failed):
            failures.append(fact)

    clients, origins = Clients(observe), Origins(())
    admission = Admission(Hosts("127.0.0.1", (), origins), origins, observe)
    credentials = Credentials(Door(observe), origins, cookie=None, in_url=False)
    app = web.Application()
    sockets = WebSockets(Echo, clients, admission, credentials, observe)
    app.router.add_get("/realtime/ws", sockets.handle, allow_head=False)
    return app
