"""Fixtures of the tests that read the event log of a real PostgreSQL without a server around it."""

from collections.abc import AsyncIterator

import pytest

from app.model.observations import Observation
from app.postgres.event_log import PostgresEventLog
from harness.database import Database


@pytest.fixture
def observed() -> list[Observation]:
    """Everything that was observed in this test."""
    return []


@pytest.fixture
async def log(database: Database, observed: list[Observation]) -> AsyncIterator[PostgresEventLog]:
    made = PostgresEventLog(database.url, observed.append)
    yield made
    await made.close()
