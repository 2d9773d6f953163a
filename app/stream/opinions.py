"""What the database's own realtime.may_subscribe said, kept for a minute.

Invariant: an answer stands for these claims and this channel alone. Claims that change with each token of one user
(exp, iat, nbf, jti) are no part of what is kept, though the function gets them.
"""

import json
import time
from collections.abc import Awaitable, Callable, Mapping
from hashlib import blake2b
from typing import Any, Final

from app.model.claims import Identity
from app.stream.kept import Recent

KEPT: Final = 100_000
KEPT_SECONDS: Final = 60.0
OF_ONE_TOKEN: Final = frozenset({"exp", "iat", "nbf", "jti"})

Ask = Callable[[str, str], Awaitable[bool | None]]


class Opinions:
    """`ask` gets a channel and claims (JSON), and raises Unavailable where there is no answer."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._kept = Recent[tuple[bytes, str], tuple[float, bool | None]](KEPT)

    async def ask(self, identity: Identity, channel: str, since: float) -> bool | None:
        """What the function says of this channel, at `since` (the monotonic clock) or later, or a minute ago at most.
        Raises Unavailable."""
        lasting = {name: value for name, value in identity.claims.items() if name not in OF_ONE_TOKEN}
        key = blake2b(_json(lasting).encode(), digest_size=16).digest(), channel
        now = time.monotonic()
        if key in self._kept:
            asked, opinion = self._kept.get(key)
            if asked >= since and now - asked < KEPT_SECONDS:
                return opinion
        opinion = await self._ask(channel, _json(identity.claims))
        self._kept.put(key, (now, opinion))
        return opinion


def _json(claims: Mapping[str, object]) -> str:
    return json.dumps(claims, default=_plain, sort_keys=True, separators=(",", ":"))


def _plain(value: Any) -> Any:
    """A read-only mapping of app.model.claims."""
    return dict(value)
