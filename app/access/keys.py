"""The keys that tokens are checked with.

Invariants
- A key has exactly one algorithm, which the key decides and never the token: so no key of one family is ever tried
  with an algorithm of another.
- What a token brings along (`jku`, `x5u`, `jwk`, `x5c`) is no key.
- No repr and no error holds a key.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt import PyJWK
from jwt.algorithms import HMACAlgorithm
from jwt.exceptions import PyJWTError

from app.model.errors import StartError

SECRET: Final = "HS256"
RSA_BITS: Final = 2048
PEM_BYTES: Final = 64 << 10
ALGORITHMS: Final = (SECRET, "RS256", "ES256", "EdDSA")


@dataclass(frozen=True, slots=True, eq=False)
class Key:
    """`name` is a digest of a key from a JWKS: whoever it let in can be found by it. None for a key of the settings,
    which stays as long as the server runs."""

    algorithm: str
    material: Any = field(repr=False)
    name: str | None = None


class Keys:
    """`settled` are the keys of the settings; `published` are those of the JWKS, by their `kid`, and change."""

    def __init__(self, settled: Iterable[Key] = ()) -> None:
        self._settled = tuple(settled)
        self.published: Mapping[str | None, Key] = {}

    def for_token(self, algorithm: str, kid: str | None) -> list[Key]:
        """The keys that may have signed a token with this header; at most three."""
        keys = [key for key in self._settled if key.algorithm == algorithm]
        found = self.published.get(kid)
        if found is None and kid is None and len(self.published) == 1:
            found = next(iter(self.published.values()))
        return [*keys, found] if found is not None and found.algorithm == algorithm else keys


def of_secrets(secrets: Iterable[str]) -> list[Key]:
    """Raises StartError for what is no secret."""
    try:
        return [Key(SECRET, HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(secret)) for secret in secrets]
    except PyJWTError:
        raise StartError("SOBRANIE_JWT_SECRET holds a public key, which everybody may know") from None


def of_pem(path: Path) -> Key:
    """The public key in a PEM file. Raises StartError, which says what is wrong with the file."""
    try:
        with path.open("rb") as file:
            pem = file.read(PEM_BYTES)
    except OSError as problem:
        raise StartError(f"SOBRANIE_JWT_PUBLIC_KEY={path}: {problem.strerror}") from problem
    if b"PRIVATE KEY" in pem:
        raise StartError(
            f"SOBRANIE_JWT_PUBLIC_KEY={path} holds a private key, which signs and does not belong here: "
            "openssl pkey -pubout makes the public one of it"
        )
    try:
        material = load_pem_public_key(pem)
        return Key(_algorithm(material), material)
    except ValueError as problem:
        raise StartError(
            f"SOBRANIE_JWT_PUBLIC_KEY={path} holds no public key that can be used ({problem}): "
            "PEM with an RSA key of 2048 bits or more, an EC key on P-256, or Ed25519"
        ) from problem


def of_jwks(document: bytes) -> tuple[dict[str | None, Key], list[str]]:
    """The keys of a JWK set by their `kid`, and why others in it are left out. Raises ValueError where it is none."""
    try:
        found = json.loads(document)
    except RecursionError as problem:
        raise ValueError("it is nested too deep") from problem
    entries = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(entries, list):
        raise ValueError('it is no JWK set: a JSON object with "keys"')
    keys: dict[str | None, Key] = {}
    left_out: list[str] = []
    for entry in entries:
        try:
            kid, key = _of_jwk(entry)
        except ValueError as problem:
            left_out.append(str(problem))
            continue
        if kid in keys:
            left_out.append("two keys have one kid")
        else:
            keys[kid] = key
    return keys, left_out


def _of_jwk(entry: object) -> tuple[str | None, Key]:
    """Raises ValueError for what is no key that may sign tokens."""
    if not isinstance(entry, dict):
        raise ValueError("a key is a JSON object")
    kid, kty = entry.get("kid"), entry.get("kty")
    if kid is not None and not isinstance(kid, str):
        raise ValueError("a kid is a string")
    if kty == "oct":
        raise ValueError("a key of kty oct is a secret, and a secret that is published lets everybody in")
    if kty not in ("RSA", "EC", "OKP"):
        raise ValueError("a key of a kty that is not RSA, EC or OKP")
    if entry.get("use", "sig") != "sig" or "verify" not in (entry.get("key_ops") or ["verify"]):
        raise ValueError("a key that is not for signatures")
    public = {name: entry[name] for name in ("kty", "crv", "n", "e", "x", "y") if name in entry}
    try:
        material = PyJWK.from_dict(public, algorithm=_EXPECTED[kty]).key
        algorithm = _algorithm(material)
    except (PyJWTError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as problem:
        raise ValueError(f"a key of kty {kty} that can't be used") from problem
    if entry.get("alg", algorithm) != algorithm:
        raise ValueError(f"a key of kty {kty} for another algorithm than {algorithm}")
    digest = hashlib.sha256(json.dumps([kid, public], sort_keys=True).encode("utf-8", "backslashreplace"))
    return kid, Key(algorithm, material, digest.hexdigest()[:32])


_EXPECTED: Final = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}


def _algorithm(material: object) -> str:
    """The one algorithm of a public key. Raises ValueError."""
    if isinstance(material, RSAPublicKey):
        if material.key_size < RSA_BITS:
            raise ValueError(f"an RSA key of {material.key_size} bits is too short")
        return "RS256"
    if isinstance(material, EllipticCurvePublicKey):
        if not isinstance(material.curve, SECP256R1):
            raise ValueError(f"a key on the curve {material.curve.name}")
        return "ES256"
    if isinstance(material, Ed25519PublicKey):
        return "EdDSA"
    raise ValueError(f"a key of the type {type(material).__name__}")
