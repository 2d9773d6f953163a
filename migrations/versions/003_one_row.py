"""An UPDATE of one row is captured by a short way. The log stays as it is: servers of any version read it.

Revision ID: 003
Revises: 002
"""

from alembic import op

from migrations.home import driver, run_file

revision = "003"
down_revision = "002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _install("capture_v2.sql")


def downgrade() -> None:
    _install("capture_v1.sql")


def _install(capture: str) -> None:
    database = driver(op.get_bind())
    database.execute("SET LOCAL ROLE realtime_owner")
    run_file(database, capture, replace=True)
    run_file(database, "recapture_v1.sql")
    database.execute("RESET ROLE")
