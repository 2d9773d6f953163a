"""The statements of queries.sql by name, read once. Invariant: SQL is never put together from strings."""

import re
from pathlib import Path
from typing import Final

_HEADER: Final = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)
_NOTE: Final = re.compile(r"^--.*\n", re.MULTILINE)


def parse(text: str) -> dict[str, bytes]:
    _, *pieces = _HEADER.split(text)
    names, bodies = pieces[::2], pieces[1::2]
    if len(set(names)) != len(names):
        raise ValueError("two queries of one name")
    return {name: _NOTE.sub("", body).strip().encode() for name, body in zip(names, bodies, strict=True)}


SQL: Final = parse(Path(__file__).with_suffix(".sql").read_text("utf-8"))
