"""What can be observed of clients."""

from dataclasses import dataclass
from typing import Literal

from app.model.observations.base import Observation, Transport

AuthMethod = Literal["header", "message", "cookie", "url", "none"]


@dataclass(frozen=True, slots=True)
class ConnectionOpened(Observation):
    transport: Transport


@dataclass(frozen=True, slots=True)
class ConnectionClosed(Observation):
    """`code` is the WebSocket close code, if one was sent or received."""

    transport: Transport
    seconds: float
    code: int | None = None


@dataclass(frozen=True, slots=True)
class ConnectionFailed(Observation):
    """A connection that was refused, or ended by an error; `reason` is one of a few fixed names."""

    transport: Transport
    reason: str


@dataclass(frozen=True, slots=True)
class SocketCut(Observation):
    """A socket without a stream was cut: "silent" sent no whole request in time, "too_large" too much of one, and
    "crowded" made room for another."""

    reason: str


@dataclass(frozen=True, slots=True)
class Full(Observation):
    """A client was sent away, because there are `connections` already and no more may be. This is told once a minute
    at most."""

    connections: int
    remedy: str


@dataclass(frozen=True, slots=True)
class Crowded(Observation):
    """Clients of one address were sent away, for more than `connections` or for coming too often. This is told once a
    minute at most, and never which address it is."""

    connections: int
    remedy: str


@dataclass(frozen=True, slots=True)
class Limited(Observation):
    """Somebody wanted more than he may: `kind` is "message", "auth", "publish" or "presence" of messages, "user",
    "address" or "waiting" of connections, and "flood" of how fast they come."""

    kind: str


@dataclass(frozen=True, slots=True)
class PageRefused(Observation):
    """A page was refused for its `origin`, or for the `host` that it asked for; `reason` says for which. Both are cut,
    and told a few times a minute at most: without them nobody finds the setting that is wrong."""

    reason: str
    origin: str
    host: str
    remedy: str


@dataclass(frozen=True, slots=True)
class MessagesReceived(Observation):
    """Messages of a known type from clients."""

    type: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class Refused(Observation):
    """An `error` message to a client; `code` as in the protocol."""

    code: str


@dataclass(frozen=True, slots=True)
class MessagesSent(Observation):
    """Messages written to sockets. `channel` is the table ("sales.orders"), "room", or "" where none is concerned."""

    type: str
    channel: str
    count: int = 1
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Delivered(Observation):
    """Changes written to `count` sockets, `seconds` after the fleet first saw them."""

    transport: Transport
    seconds: float
    count: int = 1


@dataclass(frozen=True, slots=True)
class Lagging(Observation):
    """A slow reader was moved to catch-up (+1), or has caught up or gone (-1)."""

    delta: int


@dataclass(frozen=True, slots=True)
class Replayed(Observation):
    """Missed changes served to a client: from the "history" in memory or from the "event_log"."""

    source: Literal["history", "event_log"]
    changes: int


@dataclass(frozen=True, slots=True)
class ReplayRead(Observation):
    """A piece of history was read from the event log, for all clients that waited for it; `bytes` in memory."""

    bytes: int


@dataclass(frozen=True, slots=True)
class Reset(Observation):
    """`reset` messages: positions that could not be honoured, so changes that these clients have lost."""

    reason: str
    channels: int
    count: int = 1


@dataclass(frozen=True, slots=True)
class Authenticated(Observation):
    """Somebody showed who he is, or failed to. All are fixed words: `method` is how the token came (header, message,
    cookie, url, or none), `result` is accepted, anonymous, refused or ended, and `reason` why it was not accepted."""

    method: AuthMethod
    result: Literal["accepted", "anonymous", "refused", "ended"]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class JwksFetched(Observation):
    """The identity provider's `keys` (how many) were fetched. `left_out` says why others of them can't be used."""

    keys: int
    left_out: str = ""


@dataclass(frozen=True, slots=True)
class JwksFailed(Observation):
    """The identity provider's keys could not be fetched; those that are known still hold."""

    reason: str
