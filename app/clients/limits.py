"""What a user may do in a minute, and how many connections he may have. Each kind has a budget of its own.

A server that is one of a fleet counts alone here, as does each of several workers: a user has the limit on each.
`Limits` is what limits over the fleet will fulfil.

Invariant: state of users who are idle goes (app.core.gcra, app.core.tally).
"""

import random
import time
from collections.abc import Callable, Hashable
from typing import Final, Literal, Protocol

from app.core.gcra import Gcra, Limit, in_ms
from app.core.tally import Tally
from app.model.errors import RateLimited
from app.model.observations import Limited, Observer

Kind = Literal["auth", "publish", "presence"]
AUTH_PER_MINUTE: Final = 10
PUBLISH_PER_MINUTE: Final = 100
PRESENCE_PER_MINUTE: Final = 30
CONNECTIONS: Final = 20  # of one user
BACK_MS: Final = (20_000, 40_000)  # after which who has too many connections may try again


class Limits(Protocol):
    """Every refusal is counted where it is made."""

    async def take(self, kind: Kind, key: Hashable) -> None:
        """Let one message of this kind pass; `key` is the user, and of `auth` the connection. Raises RateLimited."""
        ...

    def forget(self, key: Hashable) -> None:
        """The connection has ended."""
        ...

    def enter(self, user: str) -> None:
        """Count one more connection of this user. Raises RateLimited, and then nothing is counted."""
        ...

    def leave(self, user: str) -> None:
        """Count one that entered out."""
        ...


class LocalLimits:
    """Those of this process. `clock` is in nanoseconds and never goes back."""

    def __init__(
        self,
        observe: Observer,
        *,
        connections: int = CONNECTIONS,
        auth: int = AUTH_PER_MINUTE,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._observe = observe
        self._clock = clock
        self._connections = Tally(connections)
        budgets: dict[Kind, int] = {"auth": auth, "publish": PUBLISH_PER_MINUTE, "presence": PRESENCE_PER_MINUTE}
        self._budgets = {kind: Gcra(Limit(most, most)) for kind, most in budgets.items()}

    async def take(self, kind: Kind, key: Hashable) -> None:
        budget = self._budgets[kind]
        wait = budget.take(key, self._clock())
        if wait:
            self._observe(Limited(kind))
            raise RateLimited(f"more than {budget.limit.per_minute} {kind} messages a minute", in_ms(wait))

    def forget(self, key: Hashable) -> None:
        self._budgets["auth"].forget(key)

    def enter(self, user: str) -> None:
        if not self._connections.enter(user):
            self._observe(Limited("user"))
            most = self._connections.most
            raise RateLimited(f"this user has {most} connections, as many as he may", random.randint(*BACK_MS))

    def leave(self, user: str) -> None:
        self._connections.leave(user)
