"""Points in the database's history: the algebra of snapshots, and the token that clients hold.

A snapshot says which transactions are visible: those below `xmax` that are not in `xip`. Snapshots are compared by
containment only, never by number or clock. A token carries a *normalised* snapshot: `xmax` is one more than the highest
transaction with an event that it contains, because a crash re-uses the ids of transactions that wrote nothing durable.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from app.model.errors import PositionRefused, ResetReason

TOKEN_LIMIT: Final = 4096  # bytes
XID_LIMIT: Final = 2**64
_TOKEN: Final = re.compile(r"[pa]([0-9]{1,19})-([0-9a-f]{8})-([0-9]{1,20})-([0-9a-f]{1,16})-([0-9.]*)-[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The transactions that are visible: `xid < xmax and xid not in xip`. Every member of `xip` is below `xmax`."""

    xmax: int
    xip: frozenset[int] = frozenset()

    @classmethod
    def parse(cls, text: str) -> "Snapshot":
        """Read PostgreSQL's text form `xmin:xmax:x,y`."""
        _, xmax, xip = text.split(":")
        return cls(int(xmax), frozenset(map(int, xip.split(","))) if xip else frozenset())

    def __str__(self) -> str:
        return f"{min(self.xip, default=self.xmax)}:{self.xmax}:{','.join(map(str, sorted(self.xip)))}"

    def sees(self, xid: int) -> bool:
        return xid < self.xmax and xid not in self.xip

    def contains(self, other: "Snapshot") -> bool:
        """Whether everything visible in `other` is visible here."""
        return other.xmax <= self.xmax and all(x in other.xip for x in self.xip if x < other.xmax)

    def union(self, other: "Snapshot") -> "Snapshot":
        """Visible here or there."""
        if self.contains(other):
            return self
        if other.contains(self):
            return other
        hidden = (x for x in self.xip | other.xip if not self.sees(x) and not other.sees(x))
        return Snapshot(max(self.xmax, other.xmax), frozenset(hidden))

    def meet(self, other: "Snapshot") -> "Snapshot":
        """Visible here and there, cut back to the highest such transaction."""
        if self.contains(other):
            return other
        if other.contains(self):
            return self
        xmax, hidden = min(self.xmax, other.xmax), self.xip | other.xip
        while xmax - 1 in hidden:
            xmax -= 1
        return Snapshot(xmax, frozenset(x for x in hidden if x < xmax))

    def without(self, xids: Iterable[int]) -> "Snapshot":
        """The same with `xids` still to come."""
        return Snapshot(self.xmax, self.xip | frozenset(x for x in xids if x < self.xmax))

    def normalised(self, highest: int) -> "Snapshot":
        """Cut back to `highest`, the highest transaction with an event that is visible here."""
        if highest + 1 >= self.xmax:
            return self
        return Snapshot(highest + 1, frozenset(x for x in self.xip if x <= highest))

    def missing_from(self, newer: "Snapshot") -> list[tuple[int, int]]:
        """Half-open ranges of transaction ids that may be visible in `newer` and are not here, ascending.

        They leave out what `newer` does not see, so that a read by them never touches the rows of an open transaction.
        """
        points = sorted(x for x in self.xip if newer.sees(x))
        ranges = [(x, x + 1) for x in points]
        low = self.xmax
        for x in sorted(x for x in newer.xip if x >= self.xmax):
            if low < x:
                ranges.append((low, x))
            low = x + 1
        if low < newer.xmax:
            ranges.append((low, newer.xmax))
        return ranges


class Path:
    """The positions on the way from `since` to `upto`, as transactions are delivered in an order of their own."""

    def __init__(self, since: Snapshot, upto: Snapshot, xids: Iterable[int]) -> None:
        """`xids` are the transactions to be delivered, or left out: at least all those that `upto` sees, `since` does
        not, and that are lower than the highest that will be delivered, or than `since.xmax`."""
        self._upto = upto
        self._xmax = since.xmax
        self._delivered: set[int] = set()
        self._ahead = sorted(xids, reverse=True)
        self._holes: set[int] = set()
        self._pass()

    def deliver(self, xid: int) -> None:
        self._delivered.add(xid)
        self._holes.discard(xid)
        self._xmax = max(self._xmax, xid + 1)
        self._pass()

    def _pass(self) -> None:
        while self._ahead and self._ahead[-1] < self._xmax:
            xid = self._ahead.pop()
            if xid in self._delivered:
                self._delivered.discard(xid)
            else:
                self._holes.add(xid)

    @property
    def position(self) -> Snapshot:
        open_ = frozenset(x for x in self._upto.xip if x < self._xmax)
        return Snapshot(self._xmax, open_ | self._holes)


@dataclass(frozen=True, slots=True)
class Position:
    """A snapshot of one incarnation of the event log, as clients hold it.

    `strict` positions were minted after everything in them was durable; those of `realtime.position()` were not, and so
    hold only within their incarnation. `lsn` is the WAL position that was durable (0 where unknown).
    """

    incarnation: int
    tag: str
    snapshot: Snapshot
    lsn: int = 0
    strict: bool = True

    def encode(self) -> str | None:
        """The token; None where it would be over the limit (a position is withheld rather than made wrong)."""
        deltas, last = [], self.snapshot.xmax
        for x in sorted(self.snapshot.xip, reverse=True):
            deltas.append(str(last - x))
            last = x
        flag = "p" if self.strict else "a"
        head = f"{flag}{self.incarnation}-{self.tag}-{self.snapshot.xmax}-{self.lsn:x}-{'.'.join(deltas)}"
        token = f"{head}-{_check(head)}"
        return token if len(token) <= TOKEN_LIMIT else None

    @classmethod
    def decode(cls, token: str) -> "Position":
        """Read a token. Raises PositionRefused(INVALID) for anything that this product did not make."""
        found = _TOKEN.fullmatch(token) if len(token) <= TOKEN_LIMIT else None
        if found is None:
            raise PositionRefused(ResetReason.INVALID)
        n, tag, xmax, lsn, deltas = found.groups()
        try:
            snapshot = _snapshot(int(xmax), [int(d) for d in deltas.split(".")] if deltas else [])
        except ValueError as error:
            raise PositionRefused(ResetReason.INVALID) from error
        position = cls(int(n), tag, snapshot, int(lsn, 16), token[0] == "p")
        if position.encode() != token:  # a wrong check, or another spelling of a number
            raise PositionRefused(ResetReason.INVALID)
        return position


def _snapshot(xmax: int, deltas: list[int]) -> Snapshot:
    if not 0 < xmax < XID_LIMIT or any(d <= 0 for d in deltas) or sum(deltas) >= xmax:
        raise ValueError("no snapshot")
    xip, last = [], xmax
    for delta in deltas:
        last -= delta
        xip.append(last)
    return Snapshot(xmax, frozenset(xip))


def _check(head: str) -> str:
    return hashlib.sha256(head.encode()).hexdigest()[:8]
