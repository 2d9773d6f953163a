"""Tokens from the command line, and the key of a server with an embedded database."""

import stat
from argparse import Namespace
from pathlib import Path

import pytest

from app.access.keys import Keys, of_secrets
from app.access.sign import KEY_FILE, own_key, sign
from app.access.tokens import Expected, identify
from app.cli import token
from app.model.errors import SettingsError, StartError
from tests.support.forge import SECRET


def test_a_key_is_made_once_and_is_its_owner_s_alone(tmp_path: Path) -> None:
    made = own_key(tmp_path)
    assert own_key(tmp_path) == made
    assert len(made) >= 32
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600
    with pytest.raises(StartError, match="nowhere"):
        own_key(tmp_path / "nowhere")


def test_what_is_signed_here_holds_here() -> None:
    made = sign(SECRET, "42", {"role": "staff"}, 60, audience="us", issuer="here")
    who = identify(made, Keys(of_secrets([SECRET])), Expected("us", "here"))
    assert (who.user, who.claims["role"]) == ("42", "staff")
    assert who.expires is not None
    assert who.issued is not None
    assert who.expires - who.issued == 60


def asked(**more: object) -> Namespace:
    return Namespace(**{"sub": "42", "claim": [], "ttl": "1h"} | more)


def test_the_command_prints_the_token_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SOBRANIE_JWT_SECRET", f"{SECRET},{'old ' + SECRET}")
    assert token.run(asked(claim=["role=staff", "tenants=[7,8]", "note=a=b"], ttl="5m")) == 0
    who = identify(capsys.readouterr().out.strip(), Keys(of_secrets([SECRET])), Expected())
    assert (who.user, who.claims["role"], who.claims["tenants"], who.claims["note"]) == ("42", "staff", (7, 8), "a=b")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"claim": ["role"]}, "NAME=VALUE"),
        ({"claim": ["=x"]}, "NAME=VALUE"),
        ({"claim": ["sub=43"]}, "--sub"),
        ({"claim": ["exp=9999999999"]}, "--ttl"),
        ({"ttl": "1"}, "--ttl"),
        ({"ttl": "1000d"}, "--ttl"),
        ({"sub": ""}, "--sub"),
        ({"sub": "a\nb"}, "--sub"),
    ],
)
def test_what_can_not_be_signed_is_said(monkeypatch: pytest.MonkeyPatch, more: dict[str, object], says: str) -> None:
    monkeypatch.setenv("SOBRANIE_JWT_SECRET", SECRET)
    with pytest.raises(SettingsError, match=says):
        token.run(asked(**more))


def test_without_a_secret_there_is_nothing_to_sign_with_but_the_embedded_database_s_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SOBRANIE_DATA", str(tmp_path))
    with pytest.raises(SettingsError, match="SOBRANIE_JWT_SECRET"):
        token.run(asked())
    secret = own_key(tmp_path)
    assert token.run(asked()) == 0
    assert identify(capsys.readouterr().out.strip(), Keys(of_secrets([secret])), Expected()).user == "42"
    monkeypatch.setenv("DATABASE_URL", "postgresql://h/d")
    with pytest.raises(SettingsError, match="SOBRANIE_JWT_SECRET"):
        token.run(asked())
