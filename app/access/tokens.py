"""Whether a token holds, and whom it names.

pyjwt checks the signature and the times. The guards here come before and after it: what it takes and should not.

Invariants
- Nothing is parsed of a token that is too large or has not three parts.
- Every token is either an Identity or Unauthorized, whatever is in it.
- No error holds a part of a token.
"""

import binascii
import json
import math
import re
from base64 import urlsafe_b64decode
from dataclasses import dataclass
from typing import Any, Final

import jwt

from app.access.keys import ALGORITHMS, Key, Keys
from app.model.claims import LEEWAY, Identity
from app.model.errors import Unauthorized

TOKEN_BYTES: Final = 8 << 10
LATELY: Final = 300  # seconds after its end in which a token is told apart from one that never held
NAME_LENGTH: Final = 256  # characters of `sub`, of `jti` and of a `kid`
DEEPEST: Final = 32
LAST_SECOND: Final = 253_402_300_799  # of the year 9999: no later time can be written down
_SHAPE: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_UNSTORABLE: Final = re.compile(r"[\x00\ud800-\udfff]")  # what no text in PostgreSQL can hold


@dataclass(frozen=True, slots=True)
class Expected:
    """What a token must say beside who it is for; None where it need not."""

    audience: str | None = None
    issuer: str | None = None


class UnknownKey(Unauthorized):
    """The token names a key that is not here; a newer JWKS may have it."""


def identify(token: str, keys: Keys, expected: Expected) -> Identity:
    """Who a token names. Raises Unauthorized, or UnknownKey."""
    algorithm, kid = _header(token)
    candidates = keys.for_token(algorithm, kid)
    if not candidates:
        raise UnknownKey("key")
    problem = Unauthorized("signature")
    for key in candidates:
        try:
            return _identity(_claims(token, key, expected), key)
        except Unauthorized as found:
            problem = found
            if found.reason != "signature":
                break
    if kid is not None and kid not in keys.published:
        raise UnknownKey(problem.reason, lately=problem.lately)
    raise problem


def _header(token: str) -> tuple[str, str | None]:
    """The algorithm and the key that a token names."""
    if len(token) > TOKEN_BYTES:
        raise Unauthorized("too_large")
    if not _SHAPE.fullmatch(token):
        raise Unauthorized("malformed")
    part = token.partition(".")[0]
    try:
        header = json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        raise Unauthorized("malformed") from None
    if not isinstance(header, dict):
        raise Unauthorized("malformed")
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS or "crit" in header or "b64" in header:
        raise Unauthorized("algorithm")
    if kid is not None and (not isinstance(kid, str) or len(kid) > NAME_LENGTH):
        raise Unauthorized("malformed")
    return algorithm, kid


def _claims(token: str, key: Key, expected: Expected) -> dict[str, Any]:
    """The claims of a token that this key has signed and whose time is now."""
    try:
        return _decoded(token, key, expected, LEEWAY)
    except jwt.InvalidSignatureError:
        raise Unauthorized("signature") from None
    except jwt.ExpiredSignatureError:
        raise Unauthorized("expired", lately=_was_good(token, key, expected)) from None
    except jwt.ImmatureSignatureError:
        raise Unauthorized("not_yet") from None
    except jwt.InvalidAudienceError:
        raise Unauthorized("audience") from None
    except jwt.InvalidIssuerError:
        raise Unauthorized("issuer") from None
    except jwt.MissingRequiredClaimError as problem:
        raise Unauthorized({"aud": "audience", "iss": "issuer"}.get(problem.claim, "claims")) from None
    except Exception:  # noqa: BLE001 - what pyjwt fails of, by whatever error, is a token that does not hold
        raise Unauthorized("claims") from None


def _decoded(token: str, key: Key, expected: Expected, leeway: float) -> dict[str, Any]:
    required = ["exp", "sub"]
    if expected.audience is not None:
        required.append("aud")
    if expected.issuer is not None:
        required.append("iss")
    return jwt.decode(
        token,
        key.material,
        algorithms=[key.algorithm],
        audience=expected.audience,
        issuer=expected.issuer,
        leeway=leeway,
        options={
            "require": required,
            "verify_aud": expected.audience is not None,
            "verify_iss": expected.issuer is not None,
            "enforce_minimum_key_length": True,
        },
    )


def _was_good(token: str, key: Key, expected: Expected) -> bool:
    """Whether a token that has ended held until a few minutes ago."""
    try:
        _identity(_decoded(token, key, expected, LEEWAY + LATELY), key)
    except Exception:  # noqa: BLE001 - as above
        return False
    return True


def _identity(claims: dict[str, Any], key: Key) -> Identity:
    """Raises Unauthorized where a claim is not what it must be."""
    user, expires, issued, jti = (claims.get(name) for name in ("sub", "exp", "iat", "jti"))
    if not _is_name(user) or not (jti is None or _is_name(jti)):
        raise Unauthorized("claims")
    if not _is_time(expires) or not (issued is None or _is_time(issued)) or not _is_plain(claims):
        raise Unauthorized("claims")
    return Identity(user=user, claims=claims, expires=expires, issued=issued, jti=jti, key=key.name)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= NAME_LENGTH and not _CONTROL.search(value)


def _is_time(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value <= LAST_SECOND  # type: ignore[operator]


def _is_plain(value: object, depth: int = 0) -> bool:
    """Whether a JSON value can be kept, judged and given to PostgreSQL."""
    if isinstance(value, str):
        return not _UNSTORABLE.search(value)
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return depth < DEEPEST and all(_is_plain(k) and _is_plain(v, depth + 1) for k, v in value.items())
    if isinstance(value, list):
        return depth < DEEPEST and all(_is_plain(member, depth + 1) for member in value)
    return True
