"""Rows that have to leave the log at once (realtime.purge), and a ring that one stuck partition does not stop.

Revision ID: 002
Revises: 001
"""

from alembic import op

from migrations.home import driver, run_file

revision = "002"
down_revision = "001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    database = driver(op.get_bind())
    database.execute("SET LOCAL ROLE realtime_owner")
    run_file(database, "ring_v2.sql")
    database.execute("UPDATE realtime.meta SET version = 2")  # older servers turn this ring as they did the last
    database.execute("RESET ROLE")


def downgrade() -> None:
    database = driver(op.get_bind())
    database.execute("SET LOCAL ROLE realtime_owner")
    run_file(database, "drop_ring_v2.sql")
    run_file(database, "ring_v1.sql", replace=True)
    database.execute("UPDATE realtime.meta SET version = 1")
    database.execute("RESET ROLE")
