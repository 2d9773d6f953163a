"""Taking turns: what many clients want at once is done a few at a time, so that the event loop stays free for others.

Invariants
- At most `many` go on in one turn of the loop, in the order in which they asked.
- Nobody keeps a place: who went on and wants more asks again, behind the others.
"""

import asyncio
from collections import deque
from typing import Final

MANY: Final = 4  # pieces of work of some hundred microseconds


class Turns:
    def __init__(self, many: int | None = None) -> None:
        self.many = self._left = many or MANY
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        """Return when it is the caller's turn."""
        loop = asyncio.get_running_loop()
        if self._left == self.many:
            loop.call_soon(self._next)
        if self._left > 0 and not self._waiting:
            self._left -= 1
            return
        mine = loop.create_future()
        self._waiting.append(mine)
        await mine

    def _next(self) -> None:
        """A new turn of the loop."""
        self._left = self.many
        while self._waiting and self._left > 0:
            first = self._waiting.popleft()
            if not first.done():  # else it gave up
                first.set_result(None)
                self._left -= 1
        if self._left < self.many:
            asyncio.get_running_loop().call_soon(self._next)
