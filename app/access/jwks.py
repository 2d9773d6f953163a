"""The keys that an identity provider publishes (a JWKS), fetched in the background.

Invariants
- There is one URL, that of the settings. Nothing that a client sends changes it, and no redirect is followed.
- At most one fetch is under way, and one begins at most every SPACING seconds, whatever clients send.
- A failed fetch changes nothing. A successful one is what holds from then on: whom a key let in that is gone, goes.
- What is fetched is bounded in bytes and in time.
"""

import asyncio
import re
import time
from collections.abc import Callable
from typing import Final

import aiohttp

from app.access.keys import Keys, of_jwks
from app.model.observations import JwksFailed, JwksFetched, Observer

LEAST_SECONDS: Final = 300.0  # between two fetches, whatever max-age says
MOST_SECONDS: Final = 3600.0
SPACING: Final = 30.0
TIMEOUT: Final = 5.0
LARGEST: Final = 256 << 10  # bytes
PATIENCE: Final = 2.0  # seconds that a client's handshake waits for a fetch
_MAX_AGE: Final = re.compile(r"(?:^|[\s,])max-age=([0-9]{1,9})(?:[\s,]|$)", re.IGNORECASE)


class NotFetched(Exception):
    """Why there are no new keys; it is told to the operator, and holds nothing of the URL."""


class Jwks:
    """`gone` is told the names of the keys that a fetch no longer has. `clock` is in seconds and never goes back."""

    def __init__(
        self,
        url: str,
        keys: Keys,
        observe: Observer,
        gone: Callable[[frozenset[str]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._keys = keys
        self._observe = observe
        self._gone = gone
        self._clock = clock
        self._fetching: asyncio.Task[None] | None = None
        self._began: float | None = None
        self._next = 0.0  # when the next fetch is due
        self.failing = True  # whether the last fetch has failed, or there was none

    async def run(self) -> None:
        """Fetch whenever that is due, for ever."""
        while True:
            await self._fetch_once()
            await asyncio.sleep(max(self._next - self._clock(), 1.0))

    async def look_again(self) -> bool:
        """Return when the keys are as new as they can be, or after PATIENCE; whether they are."""
        if self._fetching is None and self._began is not None and self._clock() - self._began < SPACING:
            return not self.failing
        _, waiting = await asyncio.wait({self._begin()}, timeout=PATIENCE)
        return not waiting and not self.failing

    async def close(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait({self._fetching})

    async def _fetch_once(self) -> None:
        if self._fetching is not None or self._began is None or self._clock() - self._began >= SPACING:
            await asyncio.wait({self._begin()})

    def _begin(self) -> asyncio.Task[None]:
        """The fetch that is under way, else a new one."""
        if self._fetching is None:
            self._began = self._clock()
            self._fetching = asyncio.create_task(self._fetch(), name="jwks")
            self._fetching.add_done_callback(self._ended)
        return self._fetching

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._fetching = None
        if not task.cancelled():
            task.exception()

    async def _fetch(self) -> None:
        self._next = self._clock() + SPACING
        try:
            document, seconds = await self._get()
            keys, left_out = of_jwks(document)
        except (NotFetched, ValueError, aiohttp.ClientError, TimeoutError, OSError) as problem:
            self.failing = True
            self._observe(JwksFailed(_why(problem)))
            return
        before = {key.name for key in self._keys.published.values()}
        self._keys.published = keys
        self.failing = False
        self._next = self._clock() + seconds
        self._observe(JwksFetched(len(keys), "; ".join(sorted(set(left_out)))))
        lost = before - {key.name for key in keys.values()}
        if lost:
            self._gone(frozenset(name for name in lost if name is not None))

    async def _get(self) -> tuple[bytes, float]:
        """The document, and the seconds for which it need not be fetched again."""
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "sobranie"}
        timeout = aiohttp.ClientTimeout(total=TIMEOUT)
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=headers, auto_decompress=False) as session,
            session.get(self._url, allow_redirects=False) as answer,
        ):
            if answer.status != 200:
                raise NotFetched(f"it answered {answer.status}")
            document = bytearray()
            async for piece in answer.content.iter_any():
                document += piece
                if len(document) > LARGEST:
                    raise NotFetched(f"it answered more than {LARGEST >> 10} KiB")
            return bytes(document), _fresh_seconds(answer.headers.get("Cache-Control", ""))


def _fresh_seconds(cache_control: str) -> float:
    found = _MAX_AGE.search(cache_control)
    return min(max(float(found[1]) if found else 0.0, LEAST_SECONDS), MOST_SECONDS)


def _why(problem: BaseException) -> str:
    """In words without the URL, which may have a secret in it."""
    if isinstance(problem, NotFetched):
        return str(problem)
    if isinstance(problem, TimeoutError):
        return f"it did not answer within {TIMEOUT:g} s"
    if isinstance(problem, aiohttp.ClientConnectorError):
        return f"no connection: {problem.os_error.strerror or type(problem.os_error).__name__}"
    if isinstance(problem, ValueError) and not isinstance(problem, aiohttp.ClientError):
        return "it answered what is no JWK set"
    return type(problem).__name__
