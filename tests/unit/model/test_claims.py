"""An identity can't be changed, nor what is in its claims."""

from dataclasses import FrozenInstanceError
from typing import Any, cast

import pytest

from app.model.claims import ANONYMOUS, Identity


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
