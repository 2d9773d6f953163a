"""Who may come in and for how long: the tokens that clients show, and the seconds at which something is due.

Invariants
- A credential that is shown and does not hold is refused, and never taken for none.
- A client whose token has ended, or whose key is no longer published, is gone a second after its leeway at the latest.
- A client that must show a token has `seconds` for it, and there are at most WAITING such clients at once.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol

from app.clients.outbox import Outbox
from app.clients.wheel import Wheel
from app.core import wire
from app.model.claims import LEEWAY, Identity
from app.model.errors import ClientError, Unauthorized
from app.model.observations import Authenticated, AuthMethod, Observer

WAITING: Final = 2000
NOTICE: Final = 30.0  # seconds at least before its end, at which a client is told to get a new one
KEY_GONE: Final = 25.0  # seconds that are left to a token whose key is no longer published; with the leeway, 55


class Verifier(Protocol):
    """What knows the keys: app.access.verifier."""

    async def identify(self, token: str) -> Identity:
        """Who a token names. Raises Unauthorized or Unavailable."""
        ...

    async def run(self) -> None:
        """Keep the keys as they are published, for ever."""
        ...


class Guest(Protocol):
    """A connection, as the door sees it: `app.clients.connection.Connection`. `known` is false while it has to show a
    token first. `due` is the wheel's."""

    identity: Identity
    known: bool
    due: int

    @property
    def outbox(self) -> Outbox: ...

    def expel(self, problem: Unauthorized) -> None:
        """Tell it why, and end its stream."""
        ...


class Door:
    """`verifier` is None where the server has no key. `anonymous` says whether a client without a token is served.
    `clock` is in seconds since 1970."""

    def __init__(
        self,
        observe: Observer,
        verifier: Verifier | None = None,
        *,
        anonymous: bool = True,
        seconds: float = 5,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.verifier = verifier
        self.anonymous = anonymous
        self._observe = observe
        self._seconds = seconds
        self._clock = clock
        self._wheel: Wheel[Guest] = Wheel(clock())
        self._waiting: set[Guest] = set()

    @property
    def full(self) -> bool:
        """Whether no more clients may come that have to show a token first."""
        return not self.anonymous and len(self._waiting) >= WAITING

    async def identify(self, token: str, method: AuthMethod) -> Identity:
        """Who a token names. Raises Unauthorized, or Unavailable. Either is counted here."""
        try:
            if self.verifier is None:
                raise Unauthorized("no_key", message="this server has no key, and so takes no token")
            identity = await self.verifier.identify(token)
        except ClientError as problem:
            reason = problem.reason if isinstance(problem, Unauthorized) else problem.code
            self._observe(Authenticated(method, "refused", reason))
            raise
        self._observe(Authenticated(method, "accepted"))
        return identity

    def refuse(self, method: AuthMethod, reason: str, message: str = "") -> Unauthorized:
        """The refusal of a credential that is not even looked at. It is counted here."""
        self._observe(Authenticated(method, "refused", reason))
        return Unauthorized(reason, message=message) if message else Unauthorized(reason)

    def let_in_unnamed(self) -> None:
        """A client came without a token, and that is all right."""
        self._observe(Authenticated("none", "anonymous"))

    # The clients that are in.

    def arrive(self, guest: Guest) -> None:
        """A client has come, or has shown another token: from now on its time is looked after, until `leave`."""
        if not guest.known:
            self._waiting.add(guest)
            self._wheel.put(guest, self._clock() + self._seconds)
            return
        self._waiting.discard(guest)
        if guest.identity.expires is None:
            self._wheel.take_out(guest)
        else:
            self._wheel.put(guest, guest.identity.expires - notice(guest.identity))

    def leave(self, guest: Guest) -> None:
        self._waiting.discard(guest)
        self._wheel.take_out(guest)

    def keys_gone(self, names: frozenset[str]) -> None:
        """These keys are no longer published: whom they let in gets a notice, and is out within a minute."""
        latest = self._clock() + KEY_GONE
        for guest in self._wheel:
            expires = guest.identity.expires
            if guest.identity.key in names and expires is not None and expires > latest:
                guest.identity = replace(guest.identity, expires=latest)
                self._wheel.put(guest, self._clock())

    async def run(self) -> None:
        """Do each second what is due in it, for ever."""
        while True:
            self.turn()
            await asyncio.sleep(1.0 - self._clock() % 1.0)

    def turn(self) -> None:
        """Do what is due now."""
        now = self._clock()
        for guest in self._wheel.turn(now):
            expires = guest.identity.expires
            if not guest.known:
                self._expel(guest, "late")
            elif expires is not None and now >= expires + LEEWAY:
                self._expel(guest, "expired")
            elif expires is not None:
                guest.outbox.send(wire.auth_expiring(max(0, int((expires - now) * 1000))))
                self._wheel.put(guest, expires + LEEWAY)

    def _expel(self, guest: Guest, reason: str) -> None:
        self._waiting.discard(guest)
        self._observe(Authenticated("none", "ended", reason))
        guest.expel(Unauthorized(reason))


def notice(identity: Identity) -> float:
    """Seconds before the end of its token at which a client is told: a tenth of the token's life, NOTICE at least."""
    life = (identity.expires or 0.0) - (identity.issued or 0.0) if identity.issued is not None else 0.0
    return max(NOTICE, life / 10)
