"""`token`: sign a token with the secret of the settings, for a person who tries something out.

Invariant: nothing but the token is on stdout, so that it can be given to another command.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any, Final

from app.model.errors import SettingsError
from app.model.setting_values import Bad, duration
from app.model.settings import Settings

LONGEST: Final = "366d"
RESERVED: Final = ("sub", "exp", "iat", "aud", "iss")


def add(commands: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        "token", help="sign a token with SOBRANIE_JWT_SECRET, or with the key of `make run`"
    )
    parser.add_argument("--sub", required=True, help="who: the claim `sub`")
    parser.add_argument("--claim", action="append", default=[], metavar="NAME=VALUE", help=CLAIM_HELP)
    parser.add_argument("--ttl", default="1h", help="for how long it holds (1h)")
    return parser


CLAIM_HELP: Final = "a claim; its value is JSON where it reads as JSON (7, true, [1,2]), else text. Repeat it for more"


def run(asked: argparse.Namespace) -> int:
    """Raises SettingsError and StartError."""
    from app.access.sign import sign

    settings = Settings.from_env(os.environ)
    user, claims, seconds = asked.sub, read_claims(asked.claim), _seconds(asked.ttl)
    if not 1 <= len(user) <= 256 or not user.isprintable():
        raise SettingsError("--sub: 1 to 256 characters that can be printed")
    print(sign(secret(settings), user, claims, seconds, audience=settings.jwt_audience, issuer=settings.jwt_issuer))
    return 0


def secret(settings: Settings) -> str:
    """What to sign with: the newest secret of the settings, or the embedded database's own. Raises SettingsError."""
    if settings.jwt_secrets:
        return settings.jwt_secrets[0]
    from app.access.sign import KEY_FILE, own_key

    directory = Path(settings.data)
    if settings.keyed or settings.database_url is not None or not (directory / KEY_FILE).exists():
        raise SettingsError(
            "SOBRANIE_JWT_SECRET is not set, and there is nothing else to sign with: an identity provider signs its "
            "tokens itself, and `make run` makes a key where DATABASE_URL is unset too"
        )
    return own_key(directory)


def read_claims(pairs: list[str]) -> dict[str, object]:
    """Raises SettingsError for what is no NAME=VALUE."""
    claims: dict[str, object] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise SettingsError(f"--claim {pair!r}: write NAME=VALUE")
        if name in RESERVED:
            raise SettingsError(f"--claim {name}: this one is made of --sub, --ttl and the settings")
        try:
            claims[name] = json.loads(text)
        except (ValueError, RecursionError):
            claims[name] = text
    return claims


def _seconds(ttl: str) -> float:
    try:
        return duration("1s", LONGEST)(ttl)
    except Bad as bad:
        raise SettingsError(f"--ttl {ttl!r}: {bad}") from None
