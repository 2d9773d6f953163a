"""What takes a right: revocations of tokens, and what the event P in the event log says of them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Optional

from app.model.claims import Identity

Action = Literal["subscribe", "snapshot", "publish", "presence"]


@dataclass(frozen=True, slots=True)
class Revocation:
    """The tokens for which all holds that is not None. `issued_before` is in seconds since 1970."""

    sub: str | None = None
    jti: str | None = None
    issued_before: float | None = None

    def concerns(self, identity: Identity) -> bool:
        """A token that does not say when it was issued may have been issued before. Who has no token has none that
        could be revoked."""
        if identity.user is None or (self.sub is not None and self.sub != identity.user):
            return False
        if self.jti is not None and self.jti != identity.jti:
            return False
        return self.issued_before is None or identity.issued is None or identity.issued < self.issued_before


@dataclass(frozen=True, slots=True)
class RightsChange:
    """Whose rights may have changed: those whom one of these revocations concerns; anybody's where it is None."""

    revocations: tuple[Revocation, ...] | None = None

    def concerns(self, identity: Identity) -> bool:
        return self.revocations is None or any(r.concerns(identity) for r in self.revocations)

    @classmethod
    def of_event(cls, values: tuple[str | None, ...] | None) -> "RightsChange":
        """From the values of an event P (sql/triggers/policies.sql)."""
        if values is None:
            return cls()
        sub, jti, before = values
        return cls((Revocation(sub, jti, float(before) if before is not None else None),))

    @classmethod
    def joined(cls, changes: Iterable[Optional["RightsChange"]]) -> Optional["RightsChange"]:
        """All of these as one; None where there is none."""
        found = [change for change in changes if change is not None]
        if len(found) < 2:
            return found[0] if found else None
        if any(change.revocations is None for change in found):
            return cls()
        return cls(tuple(r for change in found for r in change.revocations or ()))
