"""Whom a revocation concerns, told without reading the claims of those whom it can't mean."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.clients.named import Named
from app.model.claims import ANONYMOUS, Identity
from app.model.rights import Revocation, RightsChange

texts = st.none() | st.sampled_from(["a", "b", 'qu"ote', "\\", "ä", "\u2028", "4", "42"])
identities = st.builds(
    lambda sub, jti, issued, more: Identity(sub, {"sub": sub, "jti": jti, "more": more}, issued=issued, jti=jti),
    texts, texts, st.none() | st.sampled_from([1.0, 2.0]), texts,
)  # fmt: skip
revocations = st.builds(Revocation, texts, texts, st.none() | st.sampled_from([1.0, 1.5]))


@given(identities, st.lists(revocations, max_size=3))
def test_it_is_what_the_identity_itself_says(identity: Identity, made: list[Revocation]) -> None:
    change = RightsChange(tuple(made))
    assert Named(identity).concerned(change) is change.concerns(identity)


@pytest.mark.parametrize("identity", [None, ANONYMOUS, Identity("42", {"sub": "42"})])
def test_any_other_change_concerns_everybody(identity: Identity | None) -> None:
    assert Named(identity).concerned(RightsChange())
