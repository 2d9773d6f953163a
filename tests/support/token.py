"""Positions as the tests understand them: an own reading of the token's format, independent of the product's code.

A token is `<flag><n>-<tag>-<xmax>-<lsn>-<xip>-<check>`; a transaction is visible in it when its id is below `xmax` and
not among `xip`.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True)
class Token:
    incarnation: str
    xmax: int
    xip: frozenset[int]
    strict: bool

    @property
    def xmin(self) -> int:
        return min(self.xip, default=self.xmax)

    def sees(self, xid: int) -> bool:
        return xid < self.xmax and xid not in self.xip

    def contains(self, other: "Token") -> bool:
        """Whether everything that `other` sees is seen here (both of one incarnation, both normalised)."""
        return self.xmax >= other.xmax and not any(other.sees(xid) for xid in self.xip if xid < other.xmax)


@lru_cache(maxsize=1 << 16)
def read(text: str) -> Token:
    body, _, check = text.rpartition("-")
    if hashlib.sha256(body.encode()).hexdigest()[:8] != check:
        raise ValueError(f"position {text!r}: wrong check")
    head, tag, xmax, _lsn, steps = body.split("-")
    return Token(f"{head[1:]}-{tag}", int(xmax), frozenset(_xids(int(xmax), steps)), head[0] == "p")


def _xids(xmax: int, steps: str) -> list[int]:
    found, last = [], xmax
    for step in steps.split(".") if steps else []:
        last -= int(step)
        found.append(last)
    return found


def signed(body: str) -> str:
    return f"{body}-{hashlib.sha256(body.encode()).hexdigest()[:8]}"


def mint(xmax: int, xip: Iterable[int] = (), head: str = "p1", tag: str = "00000000") -> str:
    steps, last = [], xmax
    for xid in sorted(xip, reverse=True):
        steps.append(str(last - xid))
        last = xid
    return signed(f"{head}-{tag}-{xmax}-0-{'.'.join(steps)}")


def forged(text: str, **parts: str) -> str:
    """`text` with other parts and a right check: what only a forger can make."""
    body = text.rpartition("-")[0].split("-")
    names = ["head", "tag", "xmax", "lsn", "xip"]
    return signed("-".join(parts.get(name, old) for name, old in zip(names, body, strict=True)))
