"""What is said to one client alone, and the transport that everything said to it goes by.

Invariant: what an `Outbox` writes is counted; whoever writes past it, which the hub does, counts for itself.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from app.core import audience, wire
from app.model.errors import ClientError, CloseCode
from app.model.observations import MessagesSent, Observer, Refused, Transport


class Sink(Protocol):
    """One client's transport. The web edge's (app.web.sinks) fulfil it.

    `direct` is what the hub sends to (app.core.audience.Out). `rerouted` is called whenever `direct` has changed.
    """

    transport: Transport
    rerouted: Callable[[], None] | None

    @property
    def direct(self) -> audience.Socket | None: ...

    def write(self, messages: Sequence[wire.Message]) -> None:
        """Hand over to the kernel or its buffer: never blocks, never raises when the peer is gone."""
        ...

    def write_rest(self, data: memoryview) -> None:
        """Hand over the bytes of a message whose beginning the socket took."""
        ...

    def backlog(self) -> int:
        """Bytes that the kernel has not taken yet."""
        ...

    async def drained(self) -> None:
        """Return when the backlog is small. Raises ConnectionResetError when the peer is gone."""
        ...

    def close(self, code: CloseCode, reason: str) -> None:
        """End the stream; nothing is written after this. Idempotent."""
        ...


class Outbox:
    """`quiet` is true until a position goes out; heartbeats set it again."""

    __slots__ = ("observe", "quiet", "sink")

    def __init__(self, sink: Sink, observe: Observer) -> None:
        self.sink = sink
        self.observe = observe
        self.quiet = True

    def write(self, messages: Sequence[wire.Message]) -> None:
        """Write messages, and count them."""
        if messages[-1].position is not None:
            self.quiet = False
        self.sink.write(messages)
        for message in messages:
            self.observe(MessagesSent(message.kind, message.table, 1, message.size))

    def send(self, message: wire.Message) -> None:
        self.write([message])

    def refuse(self, problem: ClientError, id: wire.JsonId = None) -> None:
        """Answer with an `error` message."""
        self.observe(Refused(problem.code))
        self.send(wire.error(problem, id))
