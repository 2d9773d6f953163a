"""How many sockets this process may have, so that descriptors are left for the database, for files, and for /livez."""

import resource
import sys
from dataclasses import dataclass
from typing import Final

from app.model.errors import StartError

APART: Final = 64  # descriptors that no client gets: the database's lines, listening sockets, files that are sent
LEAST: Final = 8


@dataclass(frozen=True, slots=True)
class Capacity:
    """`sockets` of all kinds; of them `streams`, that is WebSockets and event streams."""

    sockets: int
    streams: int

    @classmethod
    def here(cls, asked: int | None) -> "Capacity":
        """`asked` is SOBRANIE_CONNECTIONS. Raises StartError where the limit of open files does not allow it."""
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return cls.of(sys.maxsize if files == resource.RLIM_INFINITY else files, asked)

    @classmethod
    def of(cls, files: int, asked: int | None) -> "Capacity":
        """With so many descriptors. An eighth of the sockets is for requests that are no streams."""
        sockets = max(files - APART, LEAST)
        streams = sockets - sockets // 8
        if asked is None:
            return cls(sockets, streams)
        if asked > streams:
            needed = APART + -(-asked * 8 // 7) + 1
            raise StartError(
                f"SOBRANIE_CONNECTIONS={asked} is more than this process may have: it may open {files} files, "
                f"which is enough for {streams} connections; raise the limit (ulimit -n {needed}), or ask for fewer"
            )
        return cls(sockets, asked)
