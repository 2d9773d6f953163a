"""Who a connection is, kept small: ten thousand of them say nothing for long, and a token's claims are many objects."""

from app.model.claims import ANONYMOUS, Identity, packed, unpacked


class Named:
    """`known` is false while the client has to show a token first. `due` is the door's wheel's."""

    __slots__ = ("_packed", "due", "known")

    def __init__(self, identity: Identity | None) -> None:
        self._packed = packed(identity or ANONYMOUS)
        self.known = identity is not None
        self.due = 0

    @property
    def identity(self) -> Identity:
        return unpacked(self._packed)

    @identity.setter
    def identity(self, identity: Identity) -> None:
        self._packed = packed(identity)
