"""Sessions: how the statements are found, how long a retry waits, and what never gets no answer."""

import time

import pytest

from app.model.errors import DatabaseAway, SettingsError
from app.postgres.connect import away, connect, deadline
from app.postgres.queries import SQL, parse
from harness.database import Database


def test_statements_are_found_by_name_without_their_notes() -> None:
    text = "-- of the file\n\n-- name: one\n-- why\nSELECT 1\n\n-- name: two\nSELECT 2 -- kept\n"
    assert parse(text) == {"one": b"SELECT 1", "two": b"SELECT 2 -- kept"}
    with pytest.raises(ValueError, match="one name"):
        parse("-- name: one\nSELECT 1\n-- name: one\nSELECT 2\n")


async def test_a_statement_without_an_answer_is_ended_at_its_deadline(database: Database) -> None:
    connection = await connect(database.url, name="test")
    began = time.monotonic()
    with pytest.raises(DatabaseAway), away():
        async with deadline(connection, 0.2):
            await connection.execute("SELECT pg_sleep(30)")
    assert time.monotonic() - began < 5
    await connection.close()


async def test_a_deadline_that_is_met_leaves_the_session_alone(database: Database) -> None:
    connection = await connect(database.url, name="test")
    async with deadline(connection, 0.05):
        await connection.execute("SELECT 1")
    await connection.execute("SELECT pg_sleep(0.1)")
    row = await (await connection.execute("SELECT current_setting('application_name')")).fetchone()
    assert row == ("sobranie test",)
    await connection.close()


def test_every_statement_names_what_it_uses_with_its_schema() -> None:
    """Sessions run with search_path pg_catalog: an unqualified name of ours would not be found, or be another's."""
    for name, statement in SQL.items():
        for ours in (b"events", b"event_log_state", b"generations", b"incarnation", b"meta"):
            for before in (b"FROM ", b"JOIN "):
                assert before + ours + b" " not in statement, name


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ("schema=public", "'schema'"),
        ("sslmode=disable&pgbouncer=true", "'pgbouncer'"),
        ("sslmode=disable&connection_limit=5&pool_timeout=2", "'connection_limit'"),
        ("ssl=hunter2&%zz", "percent-encoded"),
        ("hunter2=x", "'hunter2'"),
        ("password=a&secret99=x", "percent-encoded"),
    ],
)
async def test_a_parameter_that_libpq_does_not_know_is_named(parameters: str, named: str) -> None:
    with pytest.raises(SettingsError, match=named) as refused:
        await connect(f"postgresql://u:secret99@127.0.0.1/d?{parameters}", name="test")
    assert "secret99" not in str(refused.value)
