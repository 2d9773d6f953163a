"""The database's URL, as libpq takes it: what is wrong with one, and what of it may be shown.

Invariant: no error and nothing that is shown holds a part of a password. libpq ends the host and the password at the
first `@`, `/` or `?`, and then prints what follows as the name of a host or of a port; such a URL is refused here.
"""

import re
from typing import Final

_SECRETS: Final = "password|sslpassword|oauth_client_secret"
_PASSWORD: Final = re.compile(rf"(?<=//)([^:@/?#]*):.*@|(?<=[?&])((?:{_SECRETS})=)[^&]*", re.DOTALL)
_URL: Final = re.compile(r"postgres(?:ql)?://([^/?]*)([^?]*)(.*)", re.DOTALL)
_HOSTS: Final = re.compile(r"(?:\[[^\[\]]*\]|[^:@,\[\]]*)(?::[0-9]*)?")
_DRIVERS: Final = re.compile(r"(?:jdbc:)?postgres(?:ql)?(?:\+[a-z0-9_]+)?://")


def redact_url(url: str) -> str:
    """Without passwords; one with a raw `@` or `/` in it is hidden too."""
    return _PASSWORD.sub(lambda m: f"{m[2]}***" if m[2] else f"{m[1]}:***@", url)


def check_url(text: str) -> None:
    """Raises ValueError, which says what is wrong and holds nothing of the URL."""
    match = _URL.fullmatch(text)
    if match is None:
        named = _DRIVERS.match(text)
        found = f", and not with {named[0]}" if named else ""
        raise ValueError(f"not a libpq URI; it begins with postgresql://{found}")
    if any(character.isspace() or not character.isprintable() for character in text):
        raise ValueError("holds a space, a line break or a control character")
    user, _, hosts = match[1].rpartition("@")
    if "@" in user:
        raise ValueError("has two @ before the host: in a user or a password an @ is written %40")
    if "@" in match[2]:
        raise ValueError("has an @ behind its first /: in a user or a password a / is written %2F, an @ %40")
    names = [pair.partition("=")[0] for pair in match[3].split("&")]
    if "@" in "".join(names) or ("@" in match[3] and "@" not in match[1]):
        raise ValueError("has an @ behind its first ?: in a user or a password a ? is written %3F, an @ everywhere %40")
    if not all(_HOSTS.fullmatch(host) for host in hosts.split(",")):
        raise ValueError(
            "has a host with a port that is no number: in a user or a password : is written %3A, / %2F, ? %3F, @ %40"
        )
