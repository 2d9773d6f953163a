"""Who a client is. Nobody says so yet: every client is anonymous, and what it may do depends on the server alone."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Identity:
    """`subject` names who connects; it is None for a client that has not said."""

    subject: str | None = None


ANONYMOUS: Final = Identity()
