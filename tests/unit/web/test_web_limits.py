"""Limits per user and per address, with real sockets: over WebSocket and event streams, behind proxies and not."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientSession, ClientWebSocketResponse, TCPConnector, WSMsgType, WSServerHandshakeError

from app.model.observations import Crowded, Limited
from app.model.settings import Settings
from app.web import crowds
from harness.facts import eventually
from tests.support.forge import SECRET, signed
from tests.unit.house import House, running

PROXY = "127.0.0.2"  # an address of this machine, as 127.0.0.1 is, and the one proxy that is trusted
EVENTS = "/realtime/events?channel=posts"


def limits(**more: Any) -> Settings:
    return Settings(port=0, trusted_proxies=(PROXY,), **more)


@asynccontextmanager
async def from_proxy() -> AsyncIterator[ClientSession]:
    async with ClientSession(connector=TCPConnector(local_addr=(PROXY, 0), limit=0)) as http:
        yield http


def of(address: str | None = None, user: str | None = None) -> dict[str, str]:
    sent = {"X-Forwarded-For": address} if address is not None else {}
    return sent | ({"Authorization": f"Bearer {signed(user)}"} if user is not None else {})


async def opened(house: House, http: ClientSession, **who: str) -> ClientWebSocketResponse:
    return await http.ws_connect(house.url + "/realtime/ws", headers=of(**who))


async def first(ws: ClientWebSocketResponse) -> dict[str, Any]:
    found: dict[str, Any] = await ws.receive_json(timeout=10)
    return found


async def refused(ws: ClientWebSocketResponse) -> dict[str, Any]:
    """The error that ends it, which has to be all that came."""
    error, end = await first(ws), await ws.receive(timeout=10)
    assert (end.type, end.data) == (WSMsgType.CLOSE, 4429)
    assert (error["type"], error["code"]) == ("error", "rate_limited")
    return error


async def streamed(house: House, http: ClientSession, **who: str) -> tuple[int, str]:
    """The status of an event stream that ends, and all of it."""
    async with http.get(house.url + EVENTS, headers=of(**who)) as answer:
        return answer.status, await asyncio.wait_for(answer.text(), 10)


def told(text: str) -> dict[str, Any]:
    """The one message of a stream that was refused. It says when to come back, in both places."""
    retry, data = text.strip().split("\n\n")
    found: dict[str, Any] = json.loads(data.removeprefix("data: "))
    assert retry == f"retry: {found['retry_after_ms']}"
    assert (found["type"], found["code"]) == ("error", "rate_limited")
    return found


async def test_an_address_has_so_many_streams_of_both_kinds_and_another_its_own() -> None:
    async with running(settings=limits(connections_per_address=2)) as house, from_proxy() as http:
        one = await opened(house, http, address="203.0.113.7")
        assert (await first(one))["type"] == "welcome"
        async with http.get(house.url + EVENTS, headers=of(address="9.9.9.9, 203.0.113.7")) as events:
            assert b"retry" in await events.content.readline()
            error = await refused(await opened(house, http, address="203.0.113.7"))
            assert 20_000 <= error["retry_after_ms"] <= 40_000
            status, text = await streamed(house, http, address="203.0.113.7")
            assert status == 200
            told(text)
            assert (await first(await opened(house, http, address="203.0.113.8")))["type"] == "welcome"
        assert house.seen.count(Limited("address")) == 2
        assert sum(isinstance(fact, Crowded) for fact in house.seen) == 1  # once a minute
        assert "203.0.113" not in str([fact for fact in house.seen if isinstance(fact, Limited | Crowded)])
        await one.close()
        await eventually(lambda: len(house.server._clients.crowds._streams) <= 1)
        assert (await first(await opened(house, http, address="203.0.113.7")))["type"] == "welcome"


async def test_nothing_is_counted_for_streams_that_have_ended_or_never_began() -> None:
    settings = limits(connections_per_address=5, connections_per_user=5, jwt_secrets=(SECRET,))
    async with running(settings=settings) as house, from_proxy() as http:
        who = {"address": "203.0.113.7", "user": "42"}
        ws = await opened(house, http, **who)
        await first(ws)
        async with http.get(house.url + EVENTS, headers=of(**who)) as events:
            await events.content.readline()
        async with http.get(house.url + "/realtime/events?channel=nonsense", headers=of(**who)) as bad:
            assert bad.status == 400
        await ws.close()
        streams, users = house.server._clients.crowds._streams, house.registry.limits._connections  # type: ignore[attr-defined]
        await eventually(lambda: len(streams) == len(users) == 0)


async def test_what_a_stranger_says_of_where_he_comes_from_counts_for_nothing() -> None:
    async with (
        running(settings=limits(connections_per_address=1)) as house,
        from_proxy() as proxy,
        ClientSession() as http,
    ):
        victim = await opened(house, proxy, address="203.0.113.7")
        assert (await first(victim))["type"] == "welcome"
        for _ in range(3):  # 127.0.0.1 is no proxy: this is neither the victim's place nor one of its own
            assert (await first(await opened(house, http, address="203.0.113.7")))["type"] == "welcome"
        await refused(await opened(house, proxy, address="198.51.100.1, 203.0.113.7"))  # nor does the left of it help
        assert (await first(await opened(house, proxy, address="not an address")))["type"] == "welcome"
        assert (await first(await opened(house, proxy)))["type"] == "welcome"


async def test_a_flood_of_one_address_is_turned_away_before_its_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowds, "ARRIVALS", 2)
    async with running(settings=limits(connections_per_address=2)) as house, from_proxy() as http:
        for _ in range(4):
            ws = await opened(house, http, address="203.0.113.7")
            assert (await first(ws))["type"] == "welcome"
            await ws.close()
        with pytest.raises(WSServerHandshakeError) as flood:
            await opened(house, http, address="203.0.113.7")
        assert flood.value.status == 429
        assert flood.value.headers is not None
        assert 1 <= int(flood.value.headers["Retry-After"]) <= 15
        status, text = await streamed(house, http, address="203.0.113.7")
        assert status == 200  # an EventSource gives up on anything else
        assert 0 < told(text)["retry_after_ms"] <= 15_000
        assert house.seen.count(Limited("flood")) == 2
        assert (await first(await opened(house, http, address="203.0.113.8")))["type"] == "welcome"


async def test_a_user_has_so_many_connections_wherever_they_come_from() -> None:
    settings = Settings(port=0, jwt_secrets=(SECRET,), connections_per_user=2, anonymous="allow")
    async with running(settings=settings) as house, ClientSession() as http:
        one, two = [await opened(house, http, user="42") for _ in range(2)]
        assert {(await first(ws))["type"] for ws in (one, two)} == {"welcome"}
        await refused(await opened(house, http, user="42"))
        status, text = await streamed(house, http, user="42")
        assert status == 200
        told(text)
        late = await opened(house, http)  # and he is known later
        assert (await first(late))["type"] == "welcome"
        await late.send_json({"type": "auth", "id": 3, "token": signed("42")})
        assert (await refused(late))["id"] == 3
        assert (await first(await opened(house, http, user="43")))["type"] == "welcome"
        for _ in range(3):  # nobody is known
            assert (await first(await opened(house, http)))["type"] == "welcome"
        assert house.seen.count(Limited("user")) == 3
        await one.send_json({"type": "auth", "id": 4, "token": signed("42")})
        assert (await first(one))["type"] == "authenticated"  # who is counted already stays
        await one.close()
        await eventually(lambda: house.registry.limits._connections._counts["42"] == 1)  # type: ignore[attr-defined]
        assert (await first(await opened(house, http, user="42")))["type"] == "welcome"


async def test_tokens_that_come_too_often_are_refused_and_the_third_time_ends_it() -> None:
    settings = Settings(port=0, jwt_secrets=(SECRET,), auth_per_minute=3)
    async with running(settings=settings) as house, ClientSession() as http:
        ws = await opened(house, http, user="42")
        await first(ws)
        token = signed("42")
        for n in range(6):
            await ws.send_json({"type": "auth", "id": n, "token": token})
        answers = [await first(ws) for _ in range(6)]
        assert [answer["type"] for answer in answers] == ["authenticated"] * 3 + ["error"] * 3
        assert [answer["id"] for answer in answers] == list(range(6))
        assert {answer["code"] for answer in answers[3:]} == {"rate_limited"}
        assert all(0 < answer["retry_after_ms"] <= 20_000 for answer in answers[3:])
        assert (await ws.receive(timeout=10)).data == 4429
        assert house.seen.count(Limited("auth")) == 3
        other = await opened(house, http, user="42")  # each connection has its own, for all refresh at about one time
        await first(other)
        await other.send_json({"type": "auth", "id": 1, "token": token})
        assert (await first(other))["type"] == "authenticated"


async def test_messages_of_one_kind_leave_the_budget_of_another_as_it_is() -> None:
    settings = Settings(port=0, jwt_secrets=(SECRET,), auth_per_minute=1)
    async with running(settings=settings) as house, ClientSession() as http:
        ws = await opened(house, http, user="42")
        await first(ws)
        for n in range(2):
            await ws.send_json({"type": "auth", "id": n, "token": signed("42")})
        await ws.send_json({"type": "ping", "id": 7})
        answers = [await first(ws) for _ in range(3)]
        assert [answer["type"] for answer in answers] == ["authenticated", "error", "pong"]
