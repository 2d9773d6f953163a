"""From one revision to the next and back; and the schema that all of them make."""

import pytest

from app.postgres.checks import check
from harness.cluster import migrate
from harness.database import Database
from tests.migrations.catalog import CATALOG, VERSIONS, refusal
from tests.migrations.dump import SCHEMA, dump, readable
from tests.migrations.later import BEFORE, LATER, Later


async def test_one_step_back_is_what_the_last_version_made(fresh: Database, later: Later) -> None:
    definitions = """SELECT 'function ' || pg_get_functiondef(oid) || coalesce(proacl::text, '') FROM pg_proc
      WHERE pronamespace = 'realtime'::regnamespace AND proname !~ '^capture_[0-9a-f]{12}_'
      UNION ALL SELECT concat_ws(' ', 'column', attrelid::regclass, attname, attstattarget) FROM pg_attribute
      WHERE attrelid::regclass::text ~ '^realtime' AND attnum > 0 ORDER BY 1"""
    migrate(fresh.url)
    first = await fresh.execute(definitions)
    later.migrate(fresh.url)
    assert await fresh.execute(definitions) != first
    await fresh.execute("SELECT realtime.purge()")
    later.migrate(fresh.url, "downgrade", BEFORE)
    assert await fresh.execute(definitions) == first
    assert await fresh.execute("SELECT version, compatible_from FROM realtime.meta") == [(3, 3)]
    later.migrate(fresh.url)
    later.migrate(fresh.url, "downgrade", "base")


async def test_a_server_of_this_version_serves_a_later_schema_that_says_it_is_compatible(
    fresh: Database, later: Later
) -> None:
    migrate(fresh.url)
    await check(fresh.url)
    later.migrate(fresh.url)
    assert await fresh.execute("SELECT version, compatible_from FROM realtime.meta") == [(4, 3)]
    await check(fresh.url)


async def test_what_a_later_version_adds_is_nobody_s_to_call(fresh: Database, later: Later) -> None:
    later.migrate(fresh.url)
    rights = "SELECT proname FROM pg_proc WHERE pronamespace = 'realtime'::regnamespace AND %s"
    await fresh.execute("CREATE ROLE someone")
    may = await fresh.execute(rights % "has_function_privilege('someone', oid, 'EXECUTE')")
    assert may == [("position",)]


async def test_what_a_later_version_migrated_is_refused_in_a_line(fresh: Database, later: Later) -> None:
    later.migrate(fresh.url)
    before = await fresh.execute(CATALOG)
    for command in (("upgrade", "head"), ("downgrade", "base"), ("current",)):
        said = refusal(fresh.url, *command)
        assert LATER in said
        assert "newer" in said
    assert await fresh.execute(CATALOG) == before


@pytest.mark.parametrize("version", VERSIONS)
def test_the_way_back_leads_to_the_same_schema(fresh: Database, later: Later, version: str) -> None:
    migrate(fresh.url, "upgrade", version)
    there = dump(fresh.cluster, fresh.url)
    later.migrate(fresh.url)
    assert dump(fresh.cluster, fresh.url) != there
    later.migrate(fresh.url, "downgrade", version)
    assert dump(fresh.cluster, fresh.url) == there


def test_the_committed_schema_is_what_the_migrations_make(fresh: Database) -> None:
    """`python -m tests.migrations.dump` writes it anew."""
    if fresh.cluster.execute("SHOW server_version_num")[0][0] < "180000":
        pytest.skip("the committed text is PostgreSQL 18's")
    migrate(fresh.url)
    assert readable(fresh.cluster, fresh.url) == SCHEMA.read_text()
