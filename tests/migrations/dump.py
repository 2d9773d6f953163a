"""The schema that the migrations make, as pg_dump tells it. `python -m tests.migrations.dump` writes sql/schema.sql."""

import re
from itertools import groupby, pairwise
from pathlib import Path
from typing import Final

from harness.cluster import ROOT, Cluster, migrate

SCHEMA: Final = ROOT / "sql" / "schema.sql"
ENTRY: Final = re.compile(r"^-- (?:Data for )?Name: (.*); Type: (.*); Schema: .*$", re.MULTILINE)
CAPTURES: Final = re.compile(r"^(CREATE|REVOKE ALL ON) FUNCTION realtime\.capture_\d")
CAPTURE: Final = re.compile(r"capture_[0-9a-f]{12}")
GENERATION: Final = re.compile(
    r"FUNCTION realtime\.(capture_[0-9a-f]{12})_\w+\(\) RETURNS.*?realtime\.owns\((\d+),", re.DOTALL
)
OID: Final = re.compile(r"((?:TG_RELID <> |realtime\.plain\(|realtime\.listed\()')[0-9]+(')")
HEAD: Final = """\
-- The whole of schema realtime, and Sobranie's own tables, as the migrations make them on PostgreSQL 18. To be read,
-- never run: sql/triggers/ has the same with its reasons, and `alembic upgrade head --sql` prints what runs.
-- `python -m tests.migrations.dump` writes this file anew, and a test holds it equal to what the migrations make.
"""
# In the order in which one reads: what is there, what holds it together, what runs, who may.
ROOMS: Final = {
    "Tables": ("SCHEMA", "COMMENT", "TYPE", "SEQUENCE", "TABLE", "TABLE ATTACH", "INDEX", "INDEX ATTACH", "CONSTRAINT"),
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
    text = _stable(cluster.run("pg_dump", "--schema-only", "--no-owner", "-n", "realtime", "-n", "public", "-d", url))
    _, *parts = ENTRY.split(text)
    entries = [(kind, kept) for kind, body in zip(parts[1::3], parts[2::3], strict=True) if (kept := _kept(body))]
    # pg_dump has the capture functions in the order of their random names.
    captures = {kind: iter(sorted(e for e in entries if e[0] == kind and CAPTURES.search(e[1]))) for kind, _ in entries}
    return [next(captures[kind]) if CAPTURES.search(text) else (kind, text) for kind, text in entries]


def _kept(body: str) -> str:
    lines = [line for line in body.splitlines() if not line.startswith(("--", "SET ", "\\"))]
    return re.sub(r"\n{2,}", "\n", "\n".join(lines)).strip() + "\n"


def _stable(text: str) -> str:
    """Without what differs from one database to the next: the oids in capture functions, and their random names, for
    which the generation stands."""
    generations = dict(GENERATION.findall(text))
    text = CAPTURE.sub(lambda found: f"capture_{generations[found[0]]}", text)
    return OID.sub(lambda found: f"{found[1]}<oid>{found[2]}", text)


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
