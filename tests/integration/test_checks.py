"""What refuses a start, and that the message names what mends it."""

import re
import time

import pytest

from app.model.errors import DatabaseAway, SettingsError, StartError
from app.postgres import checks
from app.postgres.checks import check
from app.postgres.connect import connect
from app.postgres.event_log import PostgresEventLog
from app.postgres.queries import SQL
from harness.cluster import Cluster, free_port, migrate
from harness.database import Database
from harness.facts import pause
from tests.support.proxy import Proxy


async def refusal(url: str) -> str:
    with pytest.raises((StartError, SettingsError)) as caught:
        await check(url)
    assert "\n" not in str(caught.value)
    return str(caught.value)


async def test_a_migrated_primary_is_served(database: Database) -> None:
    await check(database.url)


async def test_a_database_that_was_never_migrated_is_refused(empty_database: Database) -> None:
    assert "alembic upgrade head" in await refusal(empty_database.url)


async def test_an_older_schema_is_refused(database: Database) -> None:
    await database.execute("UPDATE realtime.meta SET version = 0")
    assert "alembic upgrade head" in await refusal(database.url)


async def test_a_newer_schema_is_served_where_it_is_compatible_and_refused_where_not(
    database: Database,
) -> None:
    await database.execute("UPDATE realtime.meta SET version = 9")
    await check(database.url)
    await database.execute("UPDATE realtime.meta SET compatible_from = 9")
    assert "upgrade this server" in await refusal(database.url)


async def test_a_standby_is_refused(own_cluster: Cluster) -> None:
    own_cluster._ddl("CREATE DATABASE served")
    migrate(own_cluster.url("served"))
    standby = Cluster(base=own_cluster)
    try:
        assert "standby" in await refusal(standby.url("served"))
    finally:
        standby.close()


async def test_a_role_without_the_rights_is_refused_and_one_of_the_readers_is_served(database: Database) -> None:
    await database.execute("CREATE ROLE bare LOGIN")
    try:
        url = database.cluster.url(database.name, user="bare")
        assert "GRANT realtime_reader" in await refusal(url)
        await database.execute("GRANT realtime_reader TO bare")
        await check(url)
        log = PostgresEventLog(url, lambda observation: None)
        start = await log.head()
        await database.execute("INSERT INTO posts (author_id) VALUES (1)")
        assert await log.difference(start.position) is not None
        await log.close()
    finally:
        await database.execute("REVOKE realtime_reader FROM bare")
        await database.execute("DROP OWNED BY bare; DROP ROLE bare")


async def test_nobody_at_the_address_is_refused_in_a_line(cluster: Cluster) -> None:
    message = await refusal(f"postgresql://postgres:hidden@127.0.0.1:{free_port()}/none")
    assert "can't be reached" in message
    assert "hidden" not in message


@pytest.mark.parametrize(
    "url", ["host=x password=hidden bad", "postgresql://u:hidden@h:port/x", "postgresql://u:hidden@/?nope=1"]
)
async def test_an_address_that_does_not_parse_is_refused_without_its_password(url: str) -> None:
    assert "hidden" not in await refusal(url)


async def test_a_listen_that_nothing_reaches_is_refused(
    database: Database, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a pooler in transaction mode: statements pass, notifications do not."""
    monkeypatch.setattr(checks, "LISTEN_SECONDS", 0.3)
    monkeypatch.setitem(SQL, "listen_check", b"SELECT 1")
    message = await refusal(proxy.url(database.name))
    assert "pooler" in message
    assert "direct" in message


HOSTILE = {
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "default_transaction_deferrable": "on",
    "statement_timeout": "300ms",
    "lock_timeout": "1ms",
    "idle_session_timeout": "200ms",
    "idle_in_transaction_session_timeout": "100ms",
    "transaction_timeout": "300ms",
    "search_path": "nowhere",
    "TimeZone": "Asia/Kathmandu",
    "DateStyle": "German",
    "IntervalStyle": "sql_standard",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "client_encoding": "LATIN1",
    "enable_indexscan": "off",
}


async def test_no_default_of_the_database_matters(database: Database) -> None:
    known = {name for (name,) in await database.execute("SELECT name FROM pg_settings")}
    for name, value in HOSTILE.items():
        if name not in known:  # transaction_timeout, before PostgreSQL 17
            continue
        database.cluster._ddl(f"ALTER DATABASE {database.name} SET {name} = '{value}'")
    session = await connect(database.url, name="test")
    for name, value in {
        "transaction_isolation": "read committed",
        "TimeZone": "UTC",
        "idle_session_timeout": "0",
    }.items():
        row = await (await session.execute("SELECT current_setting(%s)", (name,))).fetchone()
        assert row == (value,)
    await session.close()
    await check(database.url)
    log = PostgresEventLog(database.url, lambda observation: None)
    start = await log.head()
    await pause(0.5)  # longer than every timeout above: the sessions must still be there
    async with await database.connect() as writer:
        await writer.execute("SET default_transaction_read_only = off; SET search_path = public")
        await writer.execute("SET client_encoding = 'UTF8'")
        await writer.execute("INSERT INTO posts (author_id, title) VALUES (1, '\u0416')")
    batch = await log.difference(start.position)
    assert batch is not None
    assert batch.transactions is not None
    row_json = batch.transactions[0].changes[0].new
    assert row_json is not None
    assert re.search(rb'"created_at":"[^"]+\+00:00"', row_json)
    assert "\u0416".encode() in row_json
    assert abs(batch.transactions[0].changes[0].at / 1e6 - time.time()) < 60  # whatever the time zone
    await log.close()


async def test_a_silent_line_is_given_up(database: Database, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.postgres.reading.LIVE_SECONDS", 0.3)
    log = PostgresEventLog(proxy.url(database.name), lambda observation: None)
    start = await log.head()
    proxy.stall()
    with pytest.raises(DatabaseAway):
        await log.difference(start.position)
    proxy.resume()
    await database.execute("INSERT INTO posts (author_id) VALUES (1)")
    assert await log.difference(start.position) is not None
    await log.close()
