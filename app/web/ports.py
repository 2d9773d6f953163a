"""What the web edge needs from the rest of the server, as small Protocols. app.main hands in what fulfils them."""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypedDict

from aiohttp import web

from app.clients.outbox import Sink
from app.model.claims import Identity


class Client(Protocol):
    """One client's connection to the stream, as this edge sees it: `app.clients.connection.Connection`."""

    def open(self) -> None:
        """Write the welcome. Raises RateLimited before anything is written."""
        ...

    async def receive(self, text: str) -> None:
        """Take one inbound message, strictly in order. What is wrong with it is answered. Raises RateLimited where it
        comes too soon."""
        ...

    async def subscribe(self, channels: list[str], position: str | None, *, snapshot: bool = False) -> None:
        """Subscribe an event stream. Raises ClientError or DatabaseAway before anything but the welcome is written."""
        ...

    def bad_request(self, message: str) -> None:
        """Answer something that can't be a message with an error."""
        ...

    def close(self) -> None:
        """Let go of everything. Idempotent."""
        ...


Connect = Callable[[Sink, Identity | None], Client]  # None: the client has to show a token first


class Problem(TypedDict):
    """A watched table whose capture is not whole, and the SQL that mends it."""

    schema: str
    table: str
    problem: str
    remedy: str


class Stranger(TypedDict):
    """A session of a role that is none of ours at a lock that only a server needs, and what ends it."""

    pid: int
    role: str
    lock: str
    remedy: str


class Blocked(TypedDict):
    """Why the event log can't drop its oldest partition and so grows, for how long, and what ends that. The server that
    leads tells it."""

    blocked_seconds: float
    excess_bytes: int
    reason: str
    remedy: str


class Fuse(TypedDict):
    """Why changes are not captured at the moment, who keeps the event log from being emptied, and what ends that, where
    it is known. Every server tells it."""

    reason: str
    holder: str
    remedy: str


class Facts(TypedDict):
    """What `/readyz` is computed from, and shows as `checks`.

    `database`: what is new can be read from it. `listen`: its notifications arrive, for the session that LISTENs
    stands. `bus`: this server hears the fleet: the bus is connected, and this server leads or has heard the leader's
    beat lately. `leader`: the server that leads now; None where none has been heard of lately. `flow`: a read of what
    is new has succeeded lately, whether or not there was any: every server reads all the time.
    """

    database: bool
    listen: bool
    bus: bool
    leader: str | None
    flow: bool
    watches: list[Problem]
    strangers: list[Stranger]
    log: Blocked | None
    fuse: Fuse | None


Health = Callable[[], Facts]
Render = Callable[[], Awaitable[bytes]]  # the metrics in Prometheus's text format


class Pages(Protocol):
    """Pages on the server's own port (the demo)."""

    def add_to(self, app: web.Application) -> None: ...
