"""realtime.finish_purges() names every operator with its schema. The log stays as it is: servers of any version read it.

Revision ID: 005
Revises: 004
"""

from alembic import op

from migrations.home import driver, run_file

revision = "005"
down_revision = "004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _install("finish_purges_v2.sql")


def downgrade() -> None:
    _install("finish_purges_v1.sql")


def _install(procedure: str) -> None:
    database = driver(op.get_bind())
    database.execute("SET LOCAL ROLE realtime_owner")
    run_file(database, procedure)
    database.execute("RESET ROLE")
