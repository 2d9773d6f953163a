"""The log's floor stays behind the servers. The log itself stays as it is: servers of any version read it.

Revision ID: 004
Revises: 003
"""

from alembic import op

from migrations.home import driver, run_file

revision = "004"
down_revision = "003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _install("floor_v2.sql")


def downgrade() -> None:
    _install("floor_v1.sql")


def _install(floor: str) -> None:
    database = driver(op.get_bind())
    database.execute("SET LOCAL ROLE realtime_owner")
    run_file(database, floor)
    database.execute("RESET ROLE")
