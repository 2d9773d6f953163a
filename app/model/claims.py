"""Who a client is, as its token says: the user, and the claims by which rights are judged.

Invariant: an identity is never changed once it is made, nor is anything in it, so that what was judged for it holds
for it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

LEEWAY: Final = 30.0  # seconds after its end in which a token still holds, for clocks differ


@dataclass(frozen=True, slots=True)
class Identity:
    """`user` is the claim `sub`. It is None for a client without a token, who is anonymous and has no claims.

    `claims` are all claims of the token, as JSON values: an object is a read-only mapping, an array a tuple. `expires`
    (`exp`) and `issued` (`iat`) are seconds since 1970; `jti` is the name of this one token. `key` is that of the
    published key that signed it, None where the server's settings have the key."""

    user: str | None = None
    claims: Mapping[str, object] = field(default_factory=lambda: frozen({}), hash=False)
    expires: float | None = None
    issued: float | None = None
    jti: str | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "claims", frozen(self.claims))


def frozen(value: Any) -> Any:
    """A JSON value that nobody can change, equal to the one that was given."""
    if isinstance(value, Mapping):
        return MappingProxyType({name: frozen(member) for name, member in value.items()})
    return tuple(frozen(member) for member in value) if isinstance(value, list | tuple) else value


ANONYMOUS: Final = Identity()
_CLAIMS: Final = {"user": "sub", "expires": "exp", "issued": "iat", "jti": "jti"}


def packed(identity: Identity) -> bytes | None:
    """An identity in a sixth of the memory, for a client that says nothing for long. None is ANONYMOUS."""
    if identity == ANONYMOUS:
        return None
    other = {name: getattr(identity, name) for name, claim in _CLAIMS.items()}
    other = {name: value for name, value in other.items() if value != identity.claims.get(_CLAIMS[name])}
    whole = [identity.claims, identity.key, other] if other or identity.key else identity.claims
    return json.dumps(whole, default=dict, ensure_ascii=False, separators=(",", ":")).encode()


@lru_cache(maxsize=256)
def unpacked(data: bytes | None) -> Identity:
    """The identity again."""
    if data is None:
        return ANONYMOUS
    whole = json.loads(data)
    claims, key, other = whole if isinstance(whole, list) else (whole, None, {})
    named = {name: claims.get(claim) for name, claim in _CLAIMS.items()}
    return Identity(claims=claims, key=key, **named | other)
