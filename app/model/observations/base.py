"""What an observation is, and who is told."""

from collections.abc import Callable
from typing import Literal

Transport = Literal["ws", "sse"]


class Observation:
    """Base of all facts."""

    __slots__ = ()


Observer = Callable[[Observation], None]


def fan(*observers: Observer) -> Observer:
    """One observer that tells them all, in order."""

    def tell(observation: Observation) -> None:
        for observer in observers:
            observer(observation)

    return tell
