"""The settings: every name, its unit, its default and its bounds, read strictly from the environment.

A name that is not known and a value that does not parse stop the start with one line (SettingsError). Invariant: no
error and no repr holds a secret, so a value is only repeated where its setting is not `secret`.
"""

import difflib
import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from app.model.database_url import check_url, redact_url
from app.model.errors import SettingsError
from app.model.origin import EVERYBODY, OPAQUE, Host, Origin
from app.model.setting_values import (
    Bad,
    check_network,
    count,
    duration,
    flag,
    listed,
    matching,
    one_of,
    port,
    size,
    workers,
)

LogFormat = Literal["json", "console"]
Anonymous = Literal["allow", "refuse"]

LONGEST_ID: Final = 63  # characters of a server's
SECRET_BYTES: Final = 32  # as many as HS256 has (RFC 7518, 3.2)
BUSES: Final = ("postgres",)  # what SOBRANIE_BUS may name, by its scheme: app.backend.open_bus opens each
# Known buses that this version does not have. They are refused with a line of their own, before BUSES is looked at.
_LATER: Final = ("redis", "rediss", "kafka", "amqp", "amqps", "nats")


@dataclass(frozen=True)
class Settings:
    """Durations in seconds, sizes in bytes. `database_url` is a libpq URI; None means the embedded database.

    It has an attribute for each setting, and four more. `own_key` says that the server made its key itself. `rights`
    says whether policies decide who may see what. `worker` comes from the keeper of several workers: it is the path of
    this worker's own socket. `notes` are what an operator should know of the settings."""

    database_url: str | None = field(default=None, repr=False)
    host: str = "127.0.0.1"
    port: int = 3000
    server_id: str = field(default_factory=lambda: f"{os.uname().nodename[:40]}-{os.getpid()}")
    bus: str = "postgres:"
    demo: bool = True
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    metrics_host: str | None = None
    metrics_port: int | None = None
    log_format: LogFormat = "json"
    log_level: str = "info"
    retention: float = 3600.0
    event_log_bytes: int = 1 << 30
    fuse_bytes: int | None = None
    ballast_bytes: int = 32 << 20
    history_bytes: int = 32 << 20
    heartbeat: float = 25.0
    outbound_bytes: int = 1 << 20
    ready_grace: float = 30.0
    rows_max: int = 100_000
    rows_bytes: int = 64 << 20
    rows_budget: int = 256 << 20
    data: str = ".data"
    workers: int = 1
    io_uring: bool = True
    connections: int | None = None
    connections_per_user: int = 20
    connections_per_address: int = 1000
    auth_per_minute: int = 10
    trusted_proxies: tuple[str, ...] = ()
    jwt_secrets: tuple[str, ...] = field(default=(), repr=False)
    jwks_url: str | None = field(default=None, repr=False)
    jwt_public_key: str | None = None
    jwt_audience: str | None = None
    jwt_issuer: str | None = None
    anonymous: Anonymous | None = None
    cookie: str | None = None
    token_in_url: bool = False
    auth_seconds: int = 5
    own_key: bool = False
    worker: str | None = None
    rights: bool = False
    notes: tuple[str, ...] = ()

    @classmethod
    def from_env(cls, env: Mapping[str, str], *, tty: bool = False) -> "Settings":
        """Raises SettingsError. `tty` picks the default log format."""
        _refuse_unknown(env)
        values: dict[str, Any] = {"log_format": "console" if tty else "json", "demo": "DATABASE_URL" not in env}
        for name, setting in _SETTINGS.items():
            if name in env:
                values[setting.field] = setting.read(name, env[name])
        if "metrics_host" in values and "metrics_port" not in values:
            raise SettingsError("SOBRANIE_METRICS_HOST is set without SOBRANIE_METRICS_PORT: set both, or neither")
        if "metrics_port" in values:
            values.setdefault("metrics_host", values.get("host", cls.host))
        if "jwks_url" in values and "jwt_audience" not in values:
            raise SettingsError(
                "SOBRANIE_JWKS_URL is set without SOBRANIE_JWT_AUDIENCE: an identity provider signs tokens for other "
                "applications too; set the audience of those that are meant for this one"
            )
        return cls(**values, notes=_notes(env))

    @property
    def redacted(self) -> str:
        """The database's URL without its password, for people and logs."""
        return redact_url(self.database_url) if self.database_url else "the embedded database"

    @property
    def public_id(self) -> str:
        """What clients are told: the server's name, but a digest of one that is made of the machine's."""
        if not self.server_id.startswith(f"{os.uname().nodename[:40]}-"):
            return self.server_id
        return hashlib.blake2s(self.server_id.encode(), digest_size=4).hexdigest()

    @property
    def keyed(self) -> bool:
        """Whether there is a key to check tokens with. Without one everybody may see everything."""
        return bool(self.jwt_secrets or self.jwks_url or self.jwt_public_key)

    @property
    def lets_strangers_in(self) -> bool:
        """Whether a client without a token is served, as anonymous."""
        return self.anonymous == "allow" or (self.anonymous is None and (self.own_key or not self.keyed))

    def in_workers(self, count: str | None, worker: str | None) -> "Settings":
        """With what the command line says of workers. Raises SettingsError."""
        asked: dict[str, Any] = {}
        if count is not None:
            asked["workers"] = _SETTINGS["SOBRANIE_WORKERS"].read("--workers", count)
        made = replace(self, worker=worker, **asked)
        if made.workers > 1 and worker is None and len(made.server_id) > LONGEST_ID - len(f"-{made.workers}"):
            raise SettingsError("SOBRANIE_SERVER_ID is too long for workers, which add a number to it")
        return made

    def with_database(self, url: str) -> "Settings":
        """The same settings with the embedded database's URL filled in."""
        return replace(self, database_url=url)

    def with_key(self, secret: str) -> "Settings":
        """The same settings with a key of the server's own, where they have none. Who has no token stays welcome."""
        return self if self.keyed else replace(self, jwt_secrets=(secret,), own_key=True)


@dataclass(frozen=True)
class _Setting:
    field: str
    parse: Callable[[str], object]
    secret: bool = False

    def read(self, name: str, text: str) -> object:
        if not text.strip():
            raise SettingsError(f"{name} is set and empty: give it a value, or unset it")
        try:
            return self.parse(text)
        except Bad as bad:
            shown = "" if self.secret else f"={text!r}"
            raise SettingsError(f"{name}{shown}: {bad}") from None


def _database_url(text: str) -> str:
    try:
        check_url(text)
    except ValueError as problem:
        raise Bad(str(problem)) from None
    return text


def _bus(text: str) -> str:
    scheme, colon, rest = text.partition(":")
    if colon and scheme in _LATER:
        raise Bad(f"the bus {scheme}: is not in this version; unset it, or set postgres:")
    if not colon or scheme not in BUSES or (scheme == "postgres" and rest):
        raise Bad(f"not a bus; this version has {', '.join(f'{known}:' for known in BUSES)}")
    return text


def _secrets(text: str) -> tuple[str, ...]:
    secrets = tuple(text.split(","))
    if len(secrets) > 2:
        raise Bad("more than two secrets; there are the new one and, while tokens of it are about, the old one")
    for secret in secrets:
        if secret != secret.strip():
            raise Bad("a secret begins or ends with a space or a line break")
        if len(secret.encode()) < SECRET_BYTES:
            raise Bad(f"a secret of fewer than {SECRET_BYTES} bytes can be guessed; make one: openssl rand -base64 33")
    return secrets


def _jwks_url(text: str) -> str:
    try:
        url = urlsplit(text)
        host, _ = url.hostname or "", url.port
    except ValueError:
        raise Bad("not a URL") from None
    if any(character.isspace() or not character.isprintable() for character in text) or not host or url.fragment:
        raise Bad("not a URL such as https://id.example.com/.well-known/jwks.json")
    if url.scheme != "https" and not (url.scheme == "http" and host in ("localhost", "127.0.0.1", "::1")):
        raise Bad(
            "not https (http only to localhost, 127.0.0.1 or [::1]): whoever changes the keys on their way gets in"
        )
    return text


def _seconds(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]?", text) or int(text) > 60:
        raise Bad("not a number from 1 to 60, in seconds")
    return int(text)


_LEVELS: Final = ("debug", "info", "warning", "error")
_SETTINGS: Final[dict[str, _Setting]] = {
    "DATABASE_URL": _Setting("database_url", _database_url, secret=True),
    "SOBRANIE_HOST": _Setting("host", matching(r"[A-Za-z0-9_.:%-]+", "a host name or an address")),
    "SOBRANIE_PORT": _Setting("port", port),
    "SOBRANIE_SERVER_ID": _Setting(
        "server_id", matching(rf"[A-Za-z0-9_.-]{{1,{LONGEST_ID}}}", f"1 to {LONGEST_ID} of A-Z a-z 0-9 _ . -")
    ),
    "SOBRANIE_BUS": _Setting("bus", _bus, secret=True),
    "SOBRANIE_JWT_SECRET": _Setting("jwt_secrets", _secrets, secret=True),
    "SOBRANIE_JWKS_URL": _Setting("jwks_url", _jwks_url, secret=True),
    "SOBRANIE_JWT_PUBLIC_KEY": _Setting("jwt_public_key", str),
    "SOBRANIE_JWT_AUDIENCE": _Setting("jwt_audience", str),
    "SOBRANIE_JWT_ISSUER": _Setting("jwt_issuer", str),
    "SOBRANIE_ANONYMOUS": _Setting("anonymous", one_of("allow", "refuse")),
    "SOBRANIE_COOKIE": _Setting("cookie", matching(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", "a cookie's name")),
    "SOBRANIE_TOKEN_IN_URL": _Setting("token_in_url", flag),
    "SOBRANIE_AUTH_SECONDS": _Setting("auth_seconds", _seconds),
    "SOBRANIE_DEMO": _Setting("demo", flag),
    "SOBRANIE_ORIGINS": _Setting("origins", listed(Origin.listed, EVERYBODY, OPAQUE)),
    "SOBRANIE_HOSTS": _Setting("hosts", listed(Host.listed, EVERYBODY)),
    "SOBRANIE_METRICS_HOST": _Setting("metrics_host", matching(r"[A-Za-z0-9_.:%-]+", "a host name or an address")),
    "SOBRANIE_METRICS_PORT": _Setting("metrics_port", port),
    "SOBRANIE_LOG_FORMAT": _Setting("log_format", one_of("json", "console")),
    "SOBRANIE_LOG_LEVEL": _Setting("log_level", one_of(*_LEVELS)),
    "SOBRANIE_RETENTION": _Setting("retention", duration("1s", "366d")),
    "SOBRANIE_EVENT_LOG_BYTES": _Setting("event_log_bytes", size("1MB", "1024TB")),
    "SOBRANIE_FUSE_BYTES": _Setting("fuse_bytes", size("2MB", "1024TB")),
    "SOBRANIE_BALLAST_BYTES": _Setting("ballast_bytes", size("0B", "64GB")),
    "SOBRANIE_HISTORY_BYTES": _Setting("history_bytes", size("64kB", "1TB")),
    "SOBRANIE_HEARTBEAT": _Setting("heartbeat", duration("100ms", "25s")),
    "SOBRANIE_OUTBOUND_BYTES": _Setting("outbound_bytes", size("1kB", "1GB")),
    "SOBRANIE_ROWS_MAX": _Setting("rows_max", count),
    "SOBRANIE_ROWS_BYTES": _Setting("rows_bytes", size("64kB", "4GB")),
    "SOBRANIE_ROWS_BUDGET": _Setting("rows_budget", size("64kB", "64GB")),
    "SOBRANIE_READY_GRACE": _Setting("ready_grace", duration("0s", "1h")),
    "SOBRANIE_CONNECTIONS": _Setting("connections", count),
    "SOBRANIE_CONNECTIONS_PER_USER": _Setting("connections_per_user", count),
    "SOBRANIE_CONNECTIONS_PER_ADDRESS": _Setting("connections_per_address", count),
    "SOBRANIE_AUTH_PER_MINUTE": _Setting("auth_per_minute", count),
    "SOBRANIE_TRUSTED_PROXIES": _Setting("trusted_proxies", listed(check_network)),
    "SOBRANIE_WORKERS": _Setting("workers", workers),
    "SOBRANIE_IO_URING": _Setting("io_uring", flag),
    "SOBRANIE_DATA": _Setting("data", str),
}

NAMES: Final = frozenset(_SETTINGS)


def _refuse_unknown(env: Mapping[str, str]) -> None:
    for name in sorted(env):
        if name.upper().startswith("SOBRANIE_") and name not in _SETTINGS:
            near = difflib.get_close_matches(name.upper(), _SETTINGS, n=1, cutoff=0)
            raise SettingsError(f"{name} is not a setting; the nearest is {near[0]}")


def _notes(env: Mapping[str, str]) -> tuple[str, ...]:
    if "REDIS_URL" in env and "SOBRANIE_BUS" not in env:
        return ("REDIS_URL is set and not used: this version's only bus is postgres:",)
    return ()
