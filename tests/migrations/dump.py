"""The schema that the migrations make, as pg_dump tells it. `python -m tests.migrations.dump` commits it."""

import hashlib

from tests.support.cluster import ROOT, Cluster, migrate

HERE = ROOT / "tests" / "migrations"


def dump(cluster: Cluster, url: str) -> str:
    """Definitions alone: no owners, no session settings, no versions of the programs."""
    text = cluster.run("pg_dump", "--schema-only", "--no-owner", "-n", "realtime", "-n", "public", "-d", url)
    kept, blank = [], True
    for line in text.splitlines():
        if line.startswith(("--", "\\", "SET ", "SELECT pg_catalog.set_config")) or (blank and not line):
            continue
        kept.append(line)
        blank = not line
    return "\n".join(kept).rstrip() + "\n"


def write() -> None:
    cluster = Cluster()
    try:
        url = cluster.url(cluster.create_database(migrated=False))
        migrate(url)
        (HERE / "schema.sql").write_text(dump(cluster, url))
    finally:
        cluster.close()
    files = sorted((ROOT / "sql" / "triggers").glob("*.sql"))
    lines = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in files]
    (HERE / "released.txt").write_text("".join(lines))


if __name__ == "__main__":
    write()
