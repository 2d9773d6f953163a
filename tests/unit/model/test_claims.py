"""An identity can't be changed, nor what is in its claims."""

import sys
from dataclasses import FrozenInstanceError
from typing import Any, cast

import pytest

from app.model.claims import ANONYMOUS, Identity, packed, unpacked


def test_nothing_in_an_identity_can_be_changed() -> None:
    given: dict[str, Any] = {"sub": "42", "tenants": ["a", {"b": 1}], "org": {"id": 7}}
    identity = Identity("42", given, expires=2e9, issued=1.5e9, jti="j")
    given["org"]["id"] = 8
    given["tenants"].append("c")

    assert identity.claims == {"sub": "42", "tenants": ("a", {"b": 1}), "org": {"id": 7}}
    with pytest.raises(TypeError):
        cast(dict[str, object], identity.claims)["sub"] = "43"
    with pytest.raises(TypeError):
        cast(dict[str, object], identity.claims["org"])["id"] = 8
    with pytest.raises(FrozenInstanceError):
        identity.user = "43"  # type: ignore[misc]


def test_who_has_no_token_is_anonymous() -> None:
    assert (ANONYMOUS.user, dict(ANONYMOUS.claims)) == (None, {})
    assert (ANONYMOUS.expires, ANONYMOUS.issued, ANONYMOUS.jti) == (None, None, None)
    assert Identity() == ANONYMOUS
    assert len({Identity("42"), Identity("42"), ANONYMOUS}) == 2


@pytest.mark.parametrize(
    "identity",
    [
        ANONYMOUS,
        Identity("42"),
        Identity("42", {"sub": "42", "exp": 1.5, "iat": 1, "jti": "t", "x": ["a", {"b": [None, True]}]}, 1.5, 1, "t"),
        Identity("42", {"sub": "42", "exp": 2}, 2, None, None, "a key"),
        Identity("42", {"sub": "42", "exp": 2}, 1, None, None, None),
        Identity("é\u2028", {"sub": "é\u2028", "exp": None, "x": "☃"}),
        Identity(None, {"a": 1}),
        Identity(None, {}, None, None, None, "a key"),
    ],
)
def test_an_identity_is_the_same_after_it_was_kept_small(identity: Identity) -> None:
    again = unpacked(packed(identity))
    assert again == identity
    assert type(again.claims) is type(identity.claims)
    assert (packed(identity) is None) is (identity is ANONYMOUS)


def test_a_usual_identity_is_kept_in_the_bytes_of_its_claims() -> None:
    claims = {"sub": "100042", "iat": 1795787957, "exp": 1795791557, "role": "user"}
    small = packed(Identity("100042", claims, 1795791557, 1795787957))
    assert small is not None
    assert sys.getsizeof(small) < 110
