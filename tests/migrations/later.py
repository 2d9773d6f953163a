"""A revision that is not there yet, so that upgrades are tested from the first release on: 003, with a new capture.

Its files are made as a real one's would be: a whole family in its new form, which runs over what is there and then has
the watched tables' capture functions made anew; the way back runs the file before.
"""

from pathlib import Path

from harness.cluster import ROOT, migrate

BEFORE, LATER = "002_tables", "003_later"
# The same event log, by another text: what an UPDATE of one row is known by.
OLD, NEW = "NOT EXISTS (SELECT FROM new_rows OFFSET 1)", "NOT EXISTS (SELECT FROM new_rows OFFSET 1 + 0)"
REVISION = '''\
"""Revision ID: 003_later"""

from pathlib import Path

from migrations.home import as_owner, run, run_file

revision, down_revision, branch_labels, depends_on = "003_later", "002_tables", None, None


def upgrade() -> None:
    install(Path(__file__).with_name("capture_v2.sql"), version=4)
    with as_owner():
        run("ALTER TABLE realtime.events ALTER at SET STATISTICS 0")


def downgrade() -> None:
    install(Path("capture.sql"), version=3)
    with as_owner():
        run("DROP FUNCTION realtime.later(); ALTER TABLE realtime.events ALTER at SET STATISTICS -1")


def install(capture: Path, *, version: int) -> None:
    with as_owner():
        run_file(capture)
        run_file("rights.sql")
        run("SELECT realtime.recapture()")
        run(f"UPDATE realtime.meta SET version = {version}")
'''
ALSO = "\nCREATE FUNCTION realtime.later() RETURNS int LANGUAGE sql AS 'SELECT 1';\n"


class Later:
    """The migrations with one more, in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        text = (ROOT / "sql" / "triggers" / "capture.sql").read_text()
        assert text.count(OLD) == 1
        (directory / "capture_v2.sql").write_text(text.replace(OLD, NEW) + ALSO)
        (directory / "003_later.py").write_text(REVISION)
        self.ini = directory / "alembic.ini"
        self.ini.write_text(
            f"[alembic]\nscript_location = {ROOT}/migrations\nprepend_sys_path = {ROOT}\npath_separator = newline\n"
            f"version_locations =\n  {ROOT}/migrations/versions\n  {directory}\n"
        )

    def migrate(self, url: str, *command: str) -> str:
        return migrate(url, "-c", str(self.ini), *(command or ("upgrade", "head")))
