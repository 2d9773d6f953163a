"""What unit tests of the flow share."""

import asyncio
from collections.abc import AsyncIterator

import pytest

import app.clients.catchup
from tests.unit.stage import Stage


@pytest.fixture
async def stage(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    monkeypatch.setattr(app.clients.catchup, "AWAY_SECONDS", 0)
    made = Stage()
    yield made
    for client in made.clients:
        client.cut()
    await asyncio.gather(*(link.task for client in made.clients for link in client.links), return_exceptions=True)
    assert made.server.spotless()
