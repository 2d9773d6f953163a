"""The server's SQL: every statement of the .sql files of this folder by its name, read once.

The SQL of a module is in the file beside it that bears its name. Invariants
- SQL is never put together from strings.
- Every object is written with its schema, because sessions run with search_path pg_catalog.
- A read of the event log is one statement in READ COMMITTED, and it also returns the event log's floor. So its rows,
  its snapshot and the floor are of one moment, even while a partition is emptied.
- No two statements have the same name, in whichever files they are.
"""

import re
from pathlib import Path
from typing import Final

_HEADER: Final = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)
_NOTE: Final = re.compile(r"^--.*\n", re.MULTILINE)


def parse(text: str) -> dict[str, bytes]:
    """Statements by name, without their notes. Raises ValueError where two have the same name."""
    _, *pieces = _HEADER.split(text)
    names, bodies = pieces[::2], pieces[1::2]
    if len(set(names)) != len(names):
        raise ValueError(f"two queries of one name: {next(n for n in names if names.count(n) > 1)!r}")
    return {name: _NOTE.sub("", body).strip().encode() for name, body in zip(names, bodies, strict=True)}


SQL: Final = parse("\n".join(file.read_text("utf-8") for file in sorted(Path(__file__).parent.glob("*.sql"))))
