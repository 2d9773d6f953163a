"""Tokens that this program signs itself: for people at a terminal, and for the demo page.

Invariant: a key that is made here is random, and only its owner can read the file.
"""

import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import jwt

from app.model.errors import StartError

KEY_FILE: Final = "jwt-secret"  # in the directory of the embedded database
KEY_BYTES: Final = 33


def sign(
    secret: str,
    user: str,
    claims: Mapping[str, object],
    seconds: float,
    *,
    audience: str | None = None,
    issuer: str | None = None,
) -> str:
    """A token for `user` that holds for so many seconds from now."""
    now = int(time.time())
    named = {"aud": audience, "iss": issuer}
    whole = dict(claims) | {"sub": user, "iat": now, "exp": now + int(seconds)}
    whole |= {name: value for name, value in named.items() if value is not None}
    return jwt.encode(whole, secret, algorithm="HS256")


def own_key(directory: Path) -> str:
    """The key of a server with an embedded database, made where there is none yet. Raises StartError."""
    path = directory / KEY_FILE
    try:
        try:
            made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return path.read_text("ascii").strip()
        with os.fdopen(made, "w") as file:
            secret = secrets.token_urlsafe(KEY_BYTES)
            file.write(f"{secret}\n")
        return secret
    except (OSError, ValueError) as problem:
        raise StartError(f"the key in {path} can't be read or made: {problem}") from problem
