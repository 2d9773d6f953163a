"""Who a connection is, kept small: ten thousand of them say nothing for long, and a token's claims are many objects."""

import json
from functools import lru_cache

from app.model.claims import ANONYMOUS, Identity, packed, unpacked
from app.model.rights import Revocation, RightsChange


class Named:
    """`known` is false while the client has to show a token first. `due` is the door's wheel's. `counted` says that the
    user has one connection more for this one (app.clients.limits)."""

    __slots__ = ("_packed", "counted", "due", "known")

    def __init__(self, identity: Identity | None) -> None:
        self._packed = packed(identity or ANONYMOUS)
        self.known = identity is not None
        self.due = 0
        self.counted = False

    @property
    def identity(self) -> Identity:
        return unpacked(self._packed)

    @identity.setter
    def identity(self, identity: Identity) -> None:
        self._packed = packed(identity)

    def concerned(self, change: RightsChange) -> bool:
        """Whether the client may lose a right by this change. Ten thousand are asked at once, so claims are read only
        where they mention what is revoked."""
        if change.revocations is None:
            return True
        held = self._packed
        if held is None:
            return False
        return any(
            all(mention in held for mention in _mentions(revocation)) and revocation.concerns(self.identity)
            for revocation in change.revocations
        )


@lru_cache(maxsize=256)
def _mentions(revocation: Revocation) -> tuple[bytes, ...]:
    """What the packed claims of a client have in them whom it concerns."""
    texts = [text for text in (revocation.sub, revocation.jti) if text is not None]
    return tuple(json.dumps(text, ensure_ascii=False).encode() for text in texts)
