"""How many of something each key has, up to a limit.

Invariant: a key that has none takes no memory.
"""

from collections.abc import Hashable


class Tally:
    """Each key may have `most`."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._counts: dict[Hashable, int] = {}

    def __len__(self) -> int:
        return len(self._counts)

    def enter(self, key: Hashable) -> bool:
        """Count one more. False, and nothing is counted, where the key has `most`."""
        count = self._counts.get(key, 0)
        if count >= self.most:
            return False
        self._counts[key] = count + 1
        return True

    def leave(self, key: Hashable) -> None:
        """Count one that entered out."""
        count = self._counts.pop(key)
        if count > 1:
            self._counts[key] = count - 1
