"""Start, health, metrics and stop of the HTTP server; its small parts by themselves."""

import asyncio
import socket

import pytest
from aiohttp import ClientSession

from app.model.errors import StartError
from app.model.settings import Settings
from app.web import rate
from app.web.health import Readiness
from app.web.ports import Facts
from app.web.rate import Rate
from tests.unit.house import HEALTHY, running


async def test_a_port_in_use_is_said_with_the_setting_that_mends_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=f"port {port} on 127.0.0.1 is in use.*SOBRANIE_PORT"):
            async with running(settings=Settings(port=port)):
                pass


async def test_a_metrics_port_in_use_leaves_the_main_port_free_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as spare:
        port = spare.getsockname()[1]
        spare.close()
        with pytest.raises(StartError, match="SOBRANIE_METRICS_PORT"):
            async with running(settings=Settings(port=port, metrics_port=taken.getsockname()[1])):
                pass
        socket.create_server(("127.0.0.1", port)).close()


async def test_a_host_that_is_not_here_is_said() -> None:
    with pytest.raises(StartError, match="SOBRANIE_HOST"):
        async with running(settings=Settings(host="192.0.2.1", port=0)):
            pass


async def test_the_plain_routes_answer() -> None:
    async with running() as house, ClientSession(house.url) as http:
        for path, status, kind in (
            ("/livez", 200, "application/json"),
            ("/readyz", 200, "application/json"),
            ("/metrics", 200, "text/plain"),
            ("/realtime/client.js", 200, "text/javascript"),
            ("/", 404, "text/plain"),  # the demo page is only where it was asked for
            ("/demo/state", 404, "text/plain"),
        ):
            async with http.get(path) as answer:
                assert (answer.status, answer.content_type) == (status, kind), path


async def test_metrics_of_their_own_address_are_not_on_the_public_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as spare:
        port = spare.getsockname()[1]
    async with running(settings=Settings(port=0, metrics_port=port)) as house, ClientSession() as http:
        async with http.get(f"{house.url}/metrics") as answer:
            assert answer.status == 404
        async with http.get(f"http://127.0.0.1:{port}/metrics") as answer:
            assert await answer.text() == "sobranie_leader 1\n"


async def test_readyz_shows_what_is_not_ready() -> None:
    async with running(settings=Settings(port=0, ready_grace=0)) as house, ClientSession(house.url) as http:
        house.facts = {**HEALTHY, "listen": False}
        async with http.get("/readyz") as answer:
            assert answer.status == 503
            assert await answer.json() == {"status": "not ready", "checks": house.facts}


async def test_a_stopped_server_takes_no_connections() -> None:
    async with running() as house:
        await house.server.stop()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", house.server.port)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_server_that_was_ready_stays_degraded_for_the_grace_and_recovers() -> None:
    clock = Clock()
    facts: Facts = {**HEALTHY, "leader": None}
    readiness = Readiness(lambda: facts, 30, clock)
    assert _status(readiness) == (503, "not ready")  # it has never been ready
    facts["leader"] = "other"
    assert _status(readiness) == (200, "ready")
    facts["database"] = False
    clock.now += 3600  # nobody asked for an hour: the grace counts from when the loss was seen
    assert _status(readiness) == (200, "degraded")
    clock.now += 30
    assert _status(readiness) == (200, "degraded")
    clock.now += 0.1
    assert _status(readiness) == (503, "not ready")
    facts["database"] = True
    assert _status(readiness) == (200, "ready")
    readiness.stopping = True
    assert _status(readiness) == (503, "not ready")


def _status(readiness: Readiness) -> tuple[int, object]:
    code, body = readiness.look()
    return code, body["status"]


def test_a_client_within_the_rate_is_never_refused_and_one_beyond_it_is_exhausted() -> None:
    clock = Clock()
    bucket = Rate(clock)
    assert not any(bucket.take() for _ in range(rate.BURST))
    for _ in range(3 * rate.PER_MINUTE):
        clock.now += 60 / rate.PER_MINUTE + 1e-6  # floats
        assert bucket.take() == 0
    wait = bucket.take()
    assert 0 < wait <= 61
    clock.now += wait / 1000
    assert bucket.take() == 0
    assert [bucket.take() > 0 for _ in range(rate.STRIKES - 1)] == [True, True]
    assert bucket.exhausted
    clock.now += 61
    assert not bucket.exhausted
