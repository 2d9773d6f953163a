"""Sobranie's own tables, posts and notifications, on the air. `alembic -x tables=no upgrade head` leaves them out.

Left out, the revision counts as done; sql/triggers/tables.sql makes them at any later time. The way back drops only
what was made here, so it works in both cases.

Revision ID: 002_tables
Revises: 001_initial
"""

from migrations.home import asked, run_file

revision = "002_tables"
down_revision = "001_initial"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if asked("tables"):
        run_file("tables.sql")


def downgrade() -> None:
    run_file("drop_tables.sql")
