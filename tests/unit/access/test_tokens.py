"""Every attack on tokens that is known is refused, and what applications sign is taken."""

import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from app.access.keys import Key, Keys, of_jwks, of_pem, of_secrets
from app.access.tokens import Expected, identify
from app.model.errors import UNAUTHORIZED, StartError, Unauthorized
from tests.support.forge import SECRET, b64, forged, good, jwk, pem, signed

RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
HS = {"alg": "HS256"}
ANY = Expected()
SECRETS = Keys(of_secrets([SECRET]))


def published(*entries: dict[str, Any]) -> Keys:
    keys = Keys(of_secrets([SECRET]))
    keys.published, left_out = of_jwks(json.dumps({"keys": entries}).encode())
    assert left_out == []
    return keys


PUBLISHED = published(jwk(RSA, "RS256", kid="r"), jwk(EC, "ES256", kid="e", use="sig"), jwk(ED, "EdDSA", kid="d"))


def reason(token: str, keys: Keys = PUBLISHED, expected: Expected = ANY) -> str:
    with pytest.raises(Unauthorized) as caught:
        identify(token, keys, expected)
    assert caught.value.message == UNAUTHORIZED, "nobody learns why"
    assert not token or token not in str(caught.value)
    return caught.value.reason


def payload(raw: str) -> bytes:
    """Claims that are good, and more of them in raw JSON."""
    return json.dumps(good())[:-1].encode() + b"," + raw.encode() + b"}"


def test_a_token_says_who_it_is_and_what_he_claims() -> None:
    claims = good(role="staff", tenants=[7, 8], jti="t1")
    who = identify(jwt.encode(claims, SECRET), SECRETS, ANY)
    assert (who.user, who.expires, who.issued, who.jti) == ("42", claims["exp"], claims["iat"], "t1")
    assert who.claims["tenants"] == (7, 8)


@pytest.mark.parametrize(("private", "algorithm", "kid"), [(RSA, "RS256", "r"), (EC, "ES256", "e"), (ED, "EdDSA", "d")])
def test_published_keys_are_found_by_their_kid(private: Any, algorithm: str, kid: str) -> None:
    token = jwt.encode(good(), private, algorithm=algorithm, headers={"kid": kid})
    assert identify(token, PUBLISHED, ANY).user == "42"
    for other in ("r", "e", "d", "none of them"):
        if other != kid:
            assert reason(jwt.encode(good(), private, algorithm=algorithm, headers={"kid": other})) == "key"
    assert reason(jwt.encode(good(), private, algorithm=algorithm)) == "key", "there are several"


def test_one_published_key_needs_no_kid() -> None:
    token = jwt.encode(good(), RSA, algorithm="RS256")
    assert identify(token, published(jwk(RSA, "RS256", kid="r")), ANY).user == "42"
    assert identify(token, published(jwk(RSA, "RS256")), ANY).user == "42"


@pytest.mark.parametrize(("private", "algorithm"), [(RSA, "RS256"), (EC, "ES256"), (ED, "EdDSA")])
def test_a_public_key_in_a_file_has_the_one_algorithm_of_its_kind(tmp_path: Path, private: Any, algorithm: str) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(pem(private))
    key = of_pem(file)
    assert key.algorithm == algorithm
    token = jwt.encode(good(), private, algorithm=algorithm, headers={"kid": "whatever"})
    assert identify(token, Keys([key]), ANY).user == "42"


def test_two_secrets_hold_at_once_while_one_takes_the_place_of_the_other() -> None:
    both = Keys(of_secrets(["new " + SECRET, SECRET]))
    assert identify(signed(), both, ANY).user == "42"
    assert identify(signed(secret="new " + SECRET), both, ANY).user == "42"
    assert reason(signed(secret="old " + SECRET), both) == "signature"
    assert reason(signed(ttl=-60), both) == "expired"


NOW = int(time.time())
ATTACKS: dict[str, tuple[str, str]] = {
    "no signature": (f"{b64(b'{}').decode()}.{b64(b'{}').decode()}.", "malformed"),
    "alg none": (forged({"alg": "none"}, good()), "algorithm"),
    "alg None": (forged({"alg": "None"}, good()), "algorithm"),
    "alg of another size": (forged({"alg": "HS512"}, good()), "algorithm"),
    "alg is a list": (forged({"alg": ["HS256"]}, good()), "algorithm"),
    "alg is missing": (forged({"typ": "JWT"}, good()), "algorithm"),
    "alg twice, none last": (forged(b'{"alg":"HS256","alg":"none"}', good()), "algorithm"),
    "HMAC with the public key as PEM": (forged({"alg": "HS256", "kid": "r"}, good(), pem(RSA)), "signature"),
    "HMAC with the public key as JWK": (
        forged({"alg": "HS256", "kid": "r"}, good(), json.dumps(jwk(RSA, "RS256", kid="r")).encode()),
        "signature",
    ),
    "HMAC that says RS256": (forged({"alg": "RS256", "kid": "r"}, good(), pem(RSA)), "signature"),
    "HMAC with no key": (forged(HS, good(), b""), "signature"),
    "another's RSA key under our kid": (
        jwt.encode(good(), rsa.generate_private_key(65537, 2048), algorithm="RS256", headers={"kid": "r"}),
        "signature",
    ),
    "RSA key under the kid of another kind": (jwt.encode(good(), RSA, algorithm="RS256", headers={"kid": "e"}), "key"),
    "PS256 with a key for RS256": (jwt.encode(good(), RSA, algorithm="PS256", headers={"kid": "r"}), "algorithm"),
    "kid is a list": (forged(HS | {"kid": ["r"]}, good()), "malformed"),
    "kid is a path, and the key empty": (forged(HS | {"kid": "../../dev/null"}, good(), b""), "signature"),
    "kid is SQL": (forged(HS | {"kid": "' UNION SELECT '"}, good(), b"'"), "signature"),
    "kid is long": (forged(HS | {"kid": "k" * 300}, good()), "malformed"),
    "crit is unknown": (forged(HS | {"crit": ["x"], "x": 1}, good()), "algorithm"),
    "crit is empty": (forged(HS | {"crit": []}, good()), "algorithm"),
    "b64 is false": (forged(HS | {"b64": False, "crit": ["b64"]}, good()), "algorithm"),
    "b64 is false without crit": (forged(HS | {"b64": False}, good()), "algorithm"),
    "jwk in the header": (
        jwt.encode(good(), ED, algorithm="EdDSA", headers={"jwk": jwk(ED, "EdDSA"), "kid": "own"}),
        "key",
    ),
    "jku in the header": (
        jwt.encode(good(), ED, algorithm="EdDSA", headers={"jku": "http://127.0.0.1:1/", "kid": "own"}),
        "key",
    ),
    "header is a list": (forged(b"[]", good()), "malformed"),
    "header is nested": (forged(b'{"alg":"HS256","x":' + b"[" * 2000 + b"]" * 2000 + b"}", good()), "malformed"),
    "header is no JSON": (forged(b"{", good()), "malformed"),
    "header is no UTF-8": (forged(b'{"alg":"HS256","x":"\xff"}', good()), "malformed"),
    "payload is a list": (forged(HS, b"[1]"), "claims"),
    "payload is nested": (forged(HS, payload('"x":' + "[" * 2000 + "]" * 2000)), "claims"),
    "payload is nested less": (forged(HS, payload('"x":' + "[" * 300 + "]" * 300)), "claims"),
    "payload is nested as objects": (forged(HS, payload('"x":' + '{"x":' * 300 + "1" + "}" * 300)), "claims"),
    "nested 20,000 deep": (forged(HS, payload('"x":' + "[" * 20_000 + "]" * 20_000)), "too_large"),
    "1 MiB": (signed(x="a" * (1 << 20)), "too_large"),
    "just too large": (signed(x="a" * 6200), "too_large"),
    "four parts": (signed() + ".x", "malformed"),
    "two parts": (signed().rpartition(".")[0], "malformed"),
    "padding": (signed() + "==", "malformed"),
    "white space": (" " + signed(), "malformed"),
    "a line break": (signed() + "\n", "malformed"),
    "no ASCII": ("é" + signed(), "malformed"),
    "nothing": ("", "malformed"),
    "exp is missing": (forged(HS, {"sub": "42"}), "claims"),
    "exp is null": (forged(HS, {"sub": "42", "exp": None}), "claims"),
    "exp is a string": (forged(HS, {"sub": "42", "exp": "9999999999"}), "claims"),
    "exp is true": (forged(HS, {"sub": "42", "exp": True}), "expired"),
    "exp is a list": (forged(HS, {"sub": "42", "exp": [NOW + 60]}), "claims"),
    "exp is NaN": (forged(HS, b'{"sub":"42","exp":NaN}'), "claims"),
    "exp is Infinity": (forged(HS, b'{"sub":"42","exp":Infinity}'), "claims"),
    "exp is 1e400": (forged(HS, b'{"sub":"42","exp":1e400}'), "claims"),
    "exp has 4,301 digits": (forged(HS, b'{"sub":"42","exp":' + b"9" * 4301 + b"}"), "claims"),
    "exp has 400 digits": (forged(HS, b'{"sub":"42","exp":' + b"9" * 400 + b"}"), "claims"),
    "exp after the year 9999": (forged(HS, {"sub": "42", "exp": 253_402_300_800}), "claims"),
    "expired": (signed(ttl=-31), "expired"),
    "not yet valid": (signed(nbf=NOW + 600), "not_yet"),
    "issued later": (forged(HS, good(iat=NOW + 600)), "not_yet"),
    "iat is a string": (forged(HS, good(iat=str(NOW))), "claims"),
    "iat is NaN": (forged(HS, payload('"iat":NaN')), "claims"),
    "sub is missing": (forged(HS, {"exp": NOW + 60}), "claims"),
    "sub is a number": (forged(HS, good(sub=42)), "claims"),
    "sub is null": (forged(HS, good(sub=None)), "claims"),
    "sub is empty": (forged(HS, good(sub="")), "claims"),
    "sub is long": (forged(HS, good(sub="a" * 257)), "claims"),
    "sub has NUL": (forged(HS, good(sub="a\0b")), "claims"),
    "sub has a line break": (forged(HS, good(sub="a\nb")), "claims"),
    "sub has half a character": (forged(HS, good(sub="\ud800")), "claims"),
    "jti is a number": (forged(HS, good(jti=1)), "claims"),
    "jti has NUL": (forged(HS, good(jti="\0")), "claims"),
    "a claim has NUL": (forged(HS, good(tenant="a\0b")), "claims"),
    "a claim within has half a character": (forged(HS, good(x=[{"y": "\udfff"}])), "claims"),
    "a claim's name has NUL": (forged(HS, good() | {"a\0": 1}), "claims"),
    "a claim is NaN": (forged(HS, good(x=float("nan"))), "claims"),
    "a claim is Infinity": (forged(HS, good(x=[float("-inf")])), "claims"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_refused(attack: str) -> None:
    token, why = ATTACKS[attack]
    assert reason(token) == why


def test_exp_true_is_no_time_either() -> None:
    """It is 1, which is long ago; in a world where that is not, it is refused for its type."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.access.tokens.LEEWAY", 10**10)
        assert reason(forged(HS, {"sub": "42", "exp": True})) == "claims"


def test_a_clock_may_differ_by_half_a_minute() -> None:
    assert identify(signed(ttl=-20), SECRETS, ANY).user == "42"
    assert identify(signed(nbf=time.time() + 20), SECRETS, ANY).user == "42"


def test_a_token_of_another_application_or_issuer_is_refused() -> None:
    expected = Expected("us", "https://id")
    fine: dict[str, Any] = {"aud": "us", "iss": "https://id"}
    assert identify(signed(**fine), SECRETS, expected).user == "42"
    assert identify(signed(**fine | {"aud": ["them", "us"]}), SECRETS, expected).user == "42"
    for claims, why in (
        (fine | {"aud": "them"}, "audience"),
        (fine | {"aud": []}, "audience"),
        ({"iss": "https://id"}, "audience"),
        (fine | {"iss": "https://id.evil"}, "issuer"),
        (fine | {"iss": ["https://id"]}, "issuer"),
        ({"aud": "us"}, "issuer"),
    ):
        assert reason(forged(HS, good(**claims)), SECRETS, expected) == why
    assert identify(signed(aud="whoever"), SECRETS, ANY).user == "42", "where none is asked for, any will do"


def test_a_token_that_has_just_ended_is_told_from_one_that_never_held() -> None:
    for ttl, claims, lately in ((-60, {}, True), (-400, {}, False), (-60, {"aud": "them"}, False)):
        with pytest.raises(Unauthorized) as caught:
            identify(signed(ttl=ttl, **{"aud": "us"} | claims), SECRETS, Expected("us"))
        assert (caught.value.reason, caught.value.lately) == ("expired", lately)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"kty": "oct", "k": b64(SECRET.encode()).decode(), "kid": "o"}, "secret"),
        (jwk(RSA, "RS256", use="enc"), "not for signatures"),
        (jwk(RSA, "RS256", key_ops=["encrypt"]), "not for signatures"),
        (jwk(RSA, "RS256", alg="RS512"), "another algorithm"),
        (jwk(RSA, "RS256", alg="HS256"), "another algorithm"),
        (jwk(rsa.generate_private_key(65537, 1024), "RS256"), "can't be used"),
        (jwk(ec.generate_private_key(ec.SECP384R1()), "ES384"), "can't be used"),
        (jwk(ED, "EdDSA", crv="Ed448"), "can't be used"),
        (jwk(EC, "ES256", x="AA"), "can't be used"),
        (jwk(RSA, "RS256", n=7), "can't be used"),
        (jwk(RSA, "RS256", kid=7), "kid"),
        ({"kid": "x"}, "kty"),
        ("x", "object"),
        (None, "object"),
    ],
)
def test_a_published_key_that_can_not_be_trusted_is_left_out_and_the_others_stay(entry: object, says: str) -> None:
    keys, left_out = of_jwks(json.dumps({"keys": [entry, jwk(EC, "ES256", kid="e")]}).encode())
    assert list(keys) == ["e"]
    assert says in left_out[0]


@pytest.mark.parametrize("document", [b"", b"<html>", b"[]", b'{"keys":{}}', b"null", b"[" * 100_000, b"\xff"])
def test_what_is_no_key_set_is_told_so(document: bytes) -> None:
    with pytest.raises(ValueError, match=r"JWK set|Expecting|nested|decode"):
        of_jwks(document)


def test_a_file_that_holds_no_public_key_stops_the_start(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    file = tmp_path / "key.pem"
    for content, says in (
        (None, "No such file"),
        (b"hello", "no public key"),
        (RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), "private key"),
        (pem(rsa.generate_private_key(65537, 1024)), "too short"),
        (pem(ec.generate_private_key(ec.SECP521R1())), "curve secp521r1"),
    ):
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(StartError, match=says):
            of_pem(file)
    with pytest.raises(StartError, match="public key"):
        of_secrets([pem(RSA).decode()])


def test_no_key_is_shown() -> None:
    assert SECRET not in repr(Key("HS256", SECRET.encode()))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["sub", "exp", "iat", "nbf", "jti", "aud", "iss", "x"]), JSON))
def test_any_claims_are_an_identity_or_a_refusal(claims: dict[str, Any]) -> None:
    token = forged(HS, json.dumps(good() | claims).encode())
    try:
        who = identify(token, SECRETS, Expected("us"))
    except Unauthorized:
        return
    assert isinstance(who.user, str)
    json.dumps(who.user).encode("utf-8")


@given(st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk", "x"]), JSON))
def test_any_header_is_an_identity_or_a_refusal(header: dict[str, Any]) -> None:
    try:
        identify(forged(HS | header, good()), PUBLISHED, ANY)
    except Unauthorized:
        pass


@given(st.text() | st.from_regex(r"[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*"))
def test_any_text_is_a_refusal(text: str) -> None:
    with pytest.raises(Unauthorized):
        identify(text, PUBLISHED, ANY)
