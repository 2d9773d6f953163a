"""The schema that the migrations make, as pg_dump tells it. `python -m tests.migrations.dump` writes sql/schema.sql."""

import re
from itertools import groupby, pairwise
from pathlib import Path
from typing import Final

from harness.cluster import ROOT, Cluster, migrate

SCHEMA: Final = ROOT / "sql" / "schema.sql"
ENTRY: Final = re.compile(r"^-- (?:Data for )?Name: (.*); Type: (.*); Schema: .*$", re.MULTILINE)
HEAD: Final = """\
-- The whole of schema realtime, and Sobranie's own tables, as the migrations make them on PostgreSQL 18. To be read,
-- never run: sql/triggers/ has the same with its reasons, and `alembic upgrade head --sql` prints what runs.
-- `python -m tests.migrations.dump` writes this file anew, and a test holds it equal to what the migrations make.
"""
# In the order in which one reads: what is there, what holds it together, what runs, who may.
ROOMS: Final = {
    "Tables": ("SCHEMA", "COMMENT", "SEQUENCE", "TABLE", "TABLE ATTACH", "INDEX", "INDEX ATTACH", "CONSTRAINT"),
    "Functions": ("FUNCTION", "PROCEDURE"),
    "Triggers": ("TRIGGER",),
    "Rights": ("ACL",),
}  # fmt: skip


def dump(cluster: Cluster, url: str) -> str:
    """Definitions alone: no owners, no session settings, no versions of the programs."""
    return "\n".join(text for _, text in _entries(cluster, url))


def readable(cluster: Cluster, url: str) -> str:
    """The same as a file for people, room by room."""
    room_of = {kind: room for room, kinds in ROOMS.items() for kind in kinds}
    order = list(ROOMS)
    found = sorted(((room_of[kind], text) for kind, text in _entries(cluster, url)), key=lambda e: order.index(e[0]))
    rooms = [(room, [text for _, text in texts]) for room, texts in groupby(found, key=lambda e: e[0])]
    return HEAD + "".join(f"\n-- {room}\n\n{_joined(texts)}" for room, texts in rooms)


def _joined(texts: list[str]) -> str:
    """Statements of one line each stand close together."""
    return "".join(t if t.count("\n") == 1 and n.count("\n") == 1 else f"{t}\n" for t, n in pairwise([*texts, "\n\n"]))


def _entries(cluster: Cluster, url: str) -> list[tuple[str, str]]:
    """What pg_dump says of each object: its type, and its statements."""
    text = cluster.run("pg_dump", "--schema-only", "--no-owner", "-n", "realtime", "-n", "public", "-d", url)
    _, *parts = ENTRY.split(text)
    entries = zip(parts[1::3], parts[2::3], strict=True)
    return [(kind, kept) for kind, body in entries if (kept := _kept(body))]


def _kept(body: str) -> str:
    lines = [line for line in body.splitlines() if not line.startswith(("--", "SET ", "\\"))]
    return re.sub(r"\n{2,}", "\n", "\n".join(lines)).strip() + "\n"


def write(path: Path = SCHEMA) -> None:
    cluster = Cluster()
    try:
        url = cluster.url(cluster.create_database(migrated=False))
        migrate(url)
        path.write_text(readable(cluster, url))
    finally:
        cluster.close()


if __name__ == "__main__":
    write()
