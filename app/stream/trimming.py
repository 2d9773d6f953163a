"""Freed memory goes back to the system. glibc keeps it otherwise; other C libraries can't be asked.

Invariant: the allocator is asked once for all that was freed within TRIM_SECONDS, and not for less than TRIM_BYTES.
"""

import asyncio
import ctypes
from contextlib import suppress
from typing import Final

TRIM_BYTES: Final = 16 << 20  # freed, for which the allocator is asked
TRIM_SECONDS: Final = 0.5  # later: what dies is freed after it has told, and what else was theirs goes with it


class Trimming:
    def __init__(self) -> None:
        self._freed = 0
        self._asking = False

    def freed(self, size: int) -> None:
        """So many bytes are being freed."""
        self._freed += size
        if self._freed > TRIM_BYTES and not self._asking:
            with suppress(RuntimeError):  # no loop runs any more
                asyncio.get_running_loop().call_later(TRIM_SECONDS, self._ask)
                self._asking = True

    def _ask(self) -> None:
        self._freed, self._asking = 0, False
        _trim()


def _trim() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
