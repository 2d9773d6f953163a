"""Schema realtime: the event log, the capture functions, positions, incarnations, the partitions and who may do what.

Revision ID: 001_initial
Revises:
"""

from migrations.home import as_owner, run, run_file

revision = "001_initial"
down_revision = None
branch_labels = None
depends_on = None

FILES = (
    "event_log.sql", "describe.sql", "relations.sql", "rendering.sql", "capture.sql", "locks.sql", "watch.sql", "check.sql",
    "position.sql", "incarnation.sql", "leader.sql", "partitions.sql", "fuse.sql", "policies.sql", "rights.sql",
)  # fmt: skip


def upgrade() -> None:
    # The version table is Alembic's, made by whoever migrates; the next migrator may be another.
    run("ALTER TABLE realtime.migrations OWNER TO realtime_owner")
    with as_owner():
        for name in FILES:
            run_file(name)
        run("SELECT FROM realtime.incarnate()")
    # It reads a file that nobody but a superuser may read: so it is a superuser's, where the migrator is one.
    with as_owner(unless="(SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = session_user)"):
        run_file("timelines.sql")


def downgrade() -> None:
    run_file("drop.sql")
