"""Every error a client or an operator can meet, and the close codes: one vocabulary.

A `ClientError` becomes an `error` message (or the 4xx body of an event stream); a `CloseCode` ends a WebSocket.
A `StartError` or `SettingsError` ends the process with one line.
"""

from enum import IntEnum, StrEnum

UNAUTHORIZED = "there is no token, or not one that holds here: get a new one"


class SobranieError(Exception):
    """Base of the product's own errors; its text is meant to be read by a person."""


class SettingsError(SobranieError):
    """A setting is unknown or does not parse (exit code 2)."""


class StartError(SobranieError):
    """The server can't start, and why, and what mends it (exit code 1)."""


class DatabaseAway(SobranieError):
    """The database can't be reached now; the operation may be tried again."""


class ClientError(SobranieError):
    """What a client asked for can't be done.

    `code` is the protocol's error code, `field` the message field at fault (if one is), `channel` the canonical or
    offending channel name (if one is).
    """

    code: str = "bad_request"

    def __init__(self, message: str, *, field: str | None = None, channel: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.channel = channel


class BadRequest(ClientError):
    """Not JSON, an unknown type, a wrong field."""


class BadChannel(ClientError):
    """No such table, route or value, or not its canonical spelling."""

    code = "bad_channel"


class TooLarge(ClientError):
    """More than the limit: of a message, or of the rows of a snapshot."""

    code = "too_large"


class Forbidden(ClientError):
    """What was asked for may not be had."""

    code = "forbidden"


class Unauthorized(ClientError):
    """Who asks has not shown a token that holds. There is one text for all reasons, so that nobody learns how near to a
    good token his own is. `reason` is a fixed word, for the log and the metrics; `lately` is true where the token was
    good until minutes ago."""

    code = "unauthorized"

    def __init__(self, reason: str, *, lately: bool = False, message: str = UNAUTHORIZED) -> None:
        super().__init__(message)
        self.reason = reason
        self.lately = lately


class RateLimited(ClientError):
    """More than allowed: messages a minute, or connections. It may be tried again after so many milliseconds."""

    code = "rate_limited"

    def __init__(self, message: str, retry_after_ms: int) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class Unavailable(ClientError):
    """The server can't do this at the moment (the database is away, it is stopping): try again."""

    code = "unavailable"


class ResetReason(StrEnum):
    """Why a position can't be honoured (protocol.md, Positions)."""

    EXPIRED = "expired"
    OVERRUN = "overrun"
    LOST = "lost"
    FOREIGN = "foreign"
    INVALID = "invalid"
    SCHEMA = "schema"


class PositionRefused(SobranieError):
    """A position can't be honoured; the client gets a `reset` with this reason."""

    def __init__(self, reason: ResetReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class CloseCode(IntEnum):
    """WebSocket close codes that this server sends."""

    GOING_AWAY = 1001
    PROTOCOL = 1002
    INVALID = 1007
    TOO_LARGE = 1009
    RESTART = 1012
    BAD_REQUEST = 4400
    UNAUTHORIZED = 4401
    FORBIDDEN = 4403
    TOO_MANY = 4429
