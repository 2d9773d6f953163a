"""What a policy asks of a token's claims: the values of one claim, and whether claims contain others (`@>`)."""

from collections.abc import Mapping, Sequence
from math import isfinite

Json = object


def at(claims: Mapping[str, Json], path: Sequence[str]) -> Json:
    """The claim at a path of names; None where there is none."""
    found: Json = claims
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def texts(claim: Json) -> list[str]:
    """The values that a claim has, each as text: those of its elements where it is an array. What is null, empty or an
    object is no value."""
    values = claim if isinstance(claim, list | tuple) else (claim,)
    return [text for value in values if (text := _text(value))]


def _text(value: Json) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or (isinstance(value, float) and isfinite(value)):
        return str(value)
    return ""


def contains(whole: Json, part: Json) -> bool:
    """Whether a JSON value contains another as PostgreSQL's `jsonb @> jsonb` has it below the top: an object each of
    its members, an array each of its elements somewhere, anything else what is equal."""
    if isinstance(part, Mapping):
        return isinstance(whole, Mapping) and all(n in whole and contains(whole[n], value) for n, value in part.items())
    if isinstance(part, list | tuple):
        return isinstance(whole, list | tuple) and all(any(contains(e, value) for e in whole) for value in part)
    if isinstance(part, bool) or isinstance(whole, bool):
        return part is whole
    if isinstance(part, float) and not isfinite(part):
        return False  # it is too large to be told from others
    return not isinstance(whole, Mapping | list | tuple) and part == whole
