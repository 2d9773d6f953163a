"""Tokens as an application signs them, and as an attacker makes them: any header, any payload, any signature."""

import hashlib
import hmac
import json
import time
from base64 import urlsafe_b64encode
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import get_default_algorithms

SECRET = "a secret of the tests that is long enough for HS256"
Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def b64(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")


def good(sub: object = "42", ttl: float = 3600, **claims: Any) -> dict[str, Any]:
    now = int(time.time())
    return {"sub": sub, "iat": now, "exp": now + ttl} | claims


def signed(sub: str = "42", ttl: float = 3600, secret: str = SECRET, **claims: Any) -> str:
    """A token as a backend makes it."""
    return jwt.encode(good(sub, ttl, **claims), secret, algorithm="HS256")


def forged(header: object, payload: object, key: bytes = SECRET.encode()) -> str:
    """Any header and payload, given as bytes or as what JSON is made of, under an HMAC that holds."""
    parts = [b64(part if isinstance(part, bytes) else json.dumps(part).encode()) for part in (header, payload)]
    message = b".".join(parts)
    return (message + b"." + b64(hmac.new(key, message, hashlib.sha256).digest())).decode()


def pem(private: Private) -> bytes:
    return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def jwk(private: Private, algorithm: str, **members: Any) -> dict[str, Any]:
    """The public half, as an identity provider publishes it."""
    made = get_default_algorithms()[algorithm].to_jwk(private.public_key(), as_dict=True)
    return {name: member for name, member in made.items() if name != "key_ops"} | members
