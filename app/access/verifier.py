"""Who a token names, by the keys of the settings and those that the identity provider publishes.

Invariant: whoever can't be judged for now (the identity provider is away) is told so, and is neither let in nor taken
for an impostor.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

from app.access.jwks import Jwks
from app.access.keys import Keys, of_pem, of_secrets
from app.access.tokens import Expected, UnknownKey, identify
from app.model.claims import Identity
from app.model.errors import Unavailable
from app.model.observations import Observer
from app.model.settings import Settings


class Verifier:
    """`gone` is told the names of published keys that are no longer. Raises StartError where a key can't be used."""

    def __init__(self, settings: Settings, observe: Observer, gone: Callable[[frozenset[str]], None]) -> None:
        settled = of_secrets(settings.jwt_secrets)
        if settings.jwt_public_key is not None:
            settled.append(of_pem(Path(settings.jwt_public_key)))
        self._keys = Keys(settled)
        self._expected = Expected(settings.jwt_audience, settings.jwt_issuer)
        self.jwks = Jwks(settings.jwks_url, self._keys, observe, gone) if settings.jwks_url else None

    async def identify(self, token: str) -> Identity:
        """Raises Unauthorized; Unavailable where a key is unknown and the newest can't be had."""
        try:
            return identify(token, self._keys, self._expected)
        except UnknownKey:
            if self.jwks is None:
                raise
        known = await self.jwks.look_again()
        try:
            return identify(token, self._keys, self._expected)
        except UnknownKey as problem:
            if not known:
                raise Unavailable("the keys of the identity provider can't be had at the moment") from problem
            raise

    async def run(self) -> None:
        """Keep the keys as they are published, for ever."""
        if self.jwks is None:
            await asyncio.Event().wait()
            return
        try:
            await self.jwks.run()
        finally:
            await self.jwks.close()
