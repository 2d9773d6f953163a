"""What a database holds, and what alembic says when it refuses."""

import subprocess
import sys

from harness.cluster import ROOT, clean_environment

VERSIONS = sorted(file.stem for file in (ROOT / "migrations" / "versions").glob("0*.py"))
CATALOG = """
SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname !~ '^pg_(toast|temp)'
UNION ALL SELECT 'relation ' || oid::regclass FROM pg_class WHERE relnamespace::regnamespace::text ~ '^(public|real)'
UNION ALL SELECT 'function ' || regexp_replace(oid::regprocedure::text, 'capture_[0-9a-f]{12}', 'capture_…')
  FROM pg_proc WHERE oid >= 16384
UNION ALL SELECT 'trigger ' || tgname || ' on ' || tgrelid::regclass FROM pg_trigger
UNION ALL SELECT 'type ' || typname FROM pg_type WHERE oid >= 16384
UNION ALL SELECT 'role ' || rolname FROM pg_roles WHERE rolname ~ 'realtime'
UNION ALL SELECT 'right ' || coalesce(relacl::text, '') || oid::regclass FROM pg_class WHERE relacl::text ~ 'realtime'
ORDER BY 1"""


def refusal(url: str, *command: str) -> str:
    """What alembic says when it refuses: one line, with no traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "alembic", *(command or ("upgrade", "head"))],
        cwd=ROOT, capture_output=True, text=True, env=clean_environment(DATABASE_URL=url),
    )  # fmt: skip
    assert done.returncode != 0
    assert "Traceback" not in done.stdout + done.stderr
    assert len((done.stdout + done.stderr).strip().splitlines()) == 1
    return done.stdout + done.stderr
