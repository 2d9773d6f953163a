"""How a setting's value is read: each reader takes the text of one, and returns what it means.

Invariant: `Bad` says what is wrong with a value, and never holds the value itself.
"""

import re
from collections.abc import Callable, Mapping
from ipaddress import ip_network
from typing import Final

SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
BYTES: Final = {"B": 1, "kB": 1 << 10, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}


class Bad(ValueError):
    """What is wrong with a value."""


def matching(pattern: str, wanted: str) -> Callable[[str], str]:
    compiled = re.compile(pattern)

    def parse(text: str) -> str:
        if not compiled.fullmatch(text):
            raise Bad(f"not {wanted}")
        return text

    return parse


def one_of(*words: str) -> Callable[[str], str]:
    return matching("|".join(words), "one of " + ", ".join(words))


def port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65535:
        raise Bad("not a port (0 to 65535; 0 takes any that is free)")
    return int(text)


def count(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise Bad("not a number from 1 to 999999999")
    return int(text)


def workers(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,2}", text) or int(text) > 256:
        raise Bad("not a number from 1 to 256")
    return int(text)


def flag(text: str) -> bool:
    if text not in ("0", "1"):
        raise Bad("not 0 or 1")
    return text == "1"


def _quantity(text: str, units: Mapping[str, float], example: str) -> float:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([a-zA-Z]+)", text)
    if not match or match[2] not in units:
        raise Bad(f"not a number with one of the units {', '.join(units)} (such as {example})")
    return float(match[1]) * units[match[2]]


def duration(least: str, most: str) -> Callable[[str], float]:
    low, high = (_quantity(bound, SECONDS, "") for bound in (least, most))

    def parse(text: str) -> float:
        seconds = _quantity(text, SECONDS, "25s")
        if not low <= seconds <= high:
            raise Bad(f"not between {least} and {most}")
        return seconds

    return parse


def size(least: str, most: str) -> Callable[[str], int]:
    low, high = (_quantity(bound, BYTES, "") for bound in (least, most))

    def parse(text: str) -> int:
        found = _quantity(text, BYTES, "32MB")
        if not low <= found <= high:
            raise Bad(f"not between {least} and {most}")
        return int(found)

    return parse


def listed(check: Callable[[str], object], *words: str) -> Callable[[str], tuple[str, ...]]:
    """A list with commas, of `words` and of what `check` takes. It raises ValueError, which says what is wrong."""

    def parse(text: str) -> tuple[str, ...]:
        items = tuple(item.strip() for item in text.split(","))
        for item in items:
            try:
                item in words or check(item)
            except ValueError as problem:
                raise Bad(str(problem)) from None
        return items

    return parse


def check_network(text: str) -> None:
    """Raises ValueError for what is neither an address nor a network."""
    try:
        ip_network(text)
    except ValueError as problem:
        raise ValueError(f"not an address or a network such as 10.0.0.0/8 ({problem})") from None
