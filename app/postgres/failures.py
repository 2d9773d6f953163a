"""Why a connection can't be made again, told once for each reason, and again each minute while it lasts."""

import time
from typing import Final

from app.model.observations import ConnectFailed, Observer

REMIND_SECONDS: Final = 60.0


class Failures:
    """`what` names the connection, as one of a few fixed words."""

    def __init__(self, what: str, observe: Observer) -> None:
        self._what = what
        self._observe = observe
        self._last = ""
        self._told_at = 0.0

    def tell(self, error: BaseException) -> None:
        """The connection failed, or could not be made."""
        text, now = " ".join(str(error).split()) or type(error).__name__, time.monotonic()
        if text != self._last or now - self._told_at >= REMIND_SECONDS:
            self._last, self._told_at = text, now
            self._observe(ConnectFailed(self._what, text))

    def over(self) -> None:
        """It stands."""
        self._last = ""
