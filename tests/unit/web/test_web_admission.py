"""Who is let in: origins and host names as listed and as sent, what other sites' pages may read, and what is told."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientSession, WSMsgType

from app.model.errors import SettingsError
from app.model.observations import ConnectionFailed, PageRefused
from app.model.origin import Host, Origin
from app.model.settings import Settings
from app.web.admission import LINES
from app.web.hosts import on_loopback
from harness.cluster import free_port
from tests.unit.house import House, running

EVENTS = "/realtime/events?channel=posts"


@pytest.fixture
async def http() -> AsyncIterator[ClientSession]:
    async with ClientSession() as session:
        yield session


# What is listed, and what a browser sends.


@pytest.mark.parametrize(
    ("listed", "sent"),
    [
        ("https://app.example", "https://app.example"),
        ("https://App.Example", "https://app.example"),
        ("https://app.example/", "https://app.example"),
        ("https://app.example:443", "https://app.example"),
        ("http://app.example:80", "http://app.example"),
        ("https://app.example:8443", "https://app.example:8443"),
        ("https://*.example.com", "https://a.example.com"),
        ("https://*.example.com", "https://a.b.example.com"),
        ("https://*.example.com:8443", "https://a.example.com:8443"),
        ("http://localhost:*", "http://localhost:5173"),
        ("http://localhost:*", "http://localhost"),
        ("http://*.localhost:*", "http://a.localhost:1"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("http://[0:0:0:0:0:0:0:1]:3000", "http://[::1]:3000"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("chrome-extension://abcdefghijklmnop", "chrome-extension://abcdefghijklmnop"),
    ],
)
def test_a_listed_origin_is_the_one_that_browsers_send(listed: str, sent: str) -> None:
    assert Settings.from_env({"SOBRANIE_ORIGINS": listed}).origins == (listed,)
    assert Origin.listed(listed).matches(sent)


@pytest.mark.parametrize(
    ("listed", "sent"),
    [
        ("https://*.example.com", "https://example.com"),
        ("https://*.example.com", "https://evilexample.com"),
        ("https://*.example.com", "https://a.example.com.evil.example"),
        ("https://*.example.com", "https://evil.example/.example.com"),
        ("https://*.example.com", "https://evil.example#.example.com"),
        ("https://*.example.com", "https://evil.example?.example.com"),
        ("https://*.example.com", "https://a@.example.com"),
        ("https://*.example.com", "http://a.example.com"),
        ("https://*.example.com", "https://a.example.com:8443"),
        ("https://app.example", "https://app.example:8443"),
        ("https://app.example", "null"),
        ("http://localhost:*", "http://localhost.evil.example:1"),
        ("http://localhost:*", "http://localhost:x"),
        ("https://a.example", "https://axexample"),
    ],
)
def test_a_listed_origin_is_no_other(listed: str, sent: str) -> None:
    assert not Origin.listed(listed).matches(sent)


@pytest.mark.parametrize(
    ("listed", "named"),
    [
        ("https://a.*.example.com", "a * may stand for all subdomains only"),
        ("https://*example.com", "a * may stand for all subdomains only"),
        ("https://*.*.example.com", "a * may stand for all subdomains only"),
        ("https://*", "everybody is *"),
        ("*://example.com", "not a list of origins"),
        ("*.example.com", "not a list of origins"),
        ("https://*.1.2.3.4", "an address has no subdomains"),
        ("https://1.2.3", "no IPv4 address"),
        ("https://[::x]", "no IPv6 address"),
        ("https://a.example/app", "leave out what follows the host"),
        ("https://a.example?x", "leave out what follows the host"),
        ("https://user@a.example", "leave out what follows the host"),
        ("https://a.example:99999", "no port"),
        ("https://a.example:8*", "no port"),
        ("https://a b.example", "leave out what follows the host"),
        ("https://a.example,", "not a list of origins"),
        ("https://", "not a list of origins"),
    ],
)
def test_an_origin_that_matches_nothing_stops_the_start_with_what_mends_it(listed: str, named: str) -> None:
    with pytest.raises(SettingsError, match="SOBRANIE_ORIGINS=") as refused:
        Settings.from_env({"SOBRANIE_ORIGINS": listed})
    assert named in str(refused.value)


@pytest.mark.parametrize("text", ["https://a.example", "a.example:80", "a.*.example", "", "1.2.3", "a example"])
def test_a_host_that_matches_nothing_stops_the_start(text: str) -> None:
    with pytest.raises(SettingsError, match="SOBRANIE_HOSTS"):
        Settings.from_env({"SOBRANIE_HOSTS": text})


def test_hosts_are_listed_by_name_and_with_their_subdomains() -> None:
    assert Settings.from_env({"SOBRANIE_HOSTS": "a.example, *.b.example"}).hosts == ("a.example", "*.b.example")
    assert Host.listed("*.B.example").matches("x.y.b.example")
    assert not Host.listed("*.b.example").matches("b.example")


# CORS.


async def test_a_listed_origin_may_send_last_event_id_and_its_cookies(http: ClientSession) -> None:
    page = {"Origin": "https://a.example.com"}
    asking = page | {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "last-event-id, x-a"}
    async with running(settings=Settings(port=0, origins=("https://*.example.com",))) as house:
        async with http.options(house.url + EVENTS, headers=asking) as answer:
            assert answer.status == 204
            assert answer.headers["Access-Control-Allow-Origin"] == "https://a.example.com"
            assert answer.headers["Access-Control-Allow-Credentials"] == "true"
            assert answer.headers["Access-Control-Allow-Methods"] == "GET"
            assert answer.headers["Access-Control-Allow-Headers"] == "last-event-id, x-a"
            assert answer.headers["Vary"] == "Origin, Access-Control-Request-Headers"
        for path, status in ((EVENTS, 200), ("/realtime/events?channel=nope", 400)):
            async with http.get(house.url + path, headers=page) as answer:
                assert answer.status == status
                assert answer.headers["Access-Control-Allow-Origin"] == "https://a.example.com"
                assert answer.headers["Access-Control-Allow-Credentials"] == "true"
                assert answer.headers["Vary"] == "Origin"


async def test_everybody_may_read_without_cookies_only(http: ClientSession) -> None:
    async with running(settings=Settings(port=0, origins=("*", "https://named.example"))) as house:
        for origin, told in (("https://x.example", ("*", None)), ("https://named.example", (..., "true"))):
            for method in ("GET", "OPTIONS"):
                async with http.request(method, house.url + EVENTS, headers={"Origin": origin}) as answer:
                    wanted = origin if told[0] is ... else told[0]
                    assert answer.headers["Access-Control-Allow-Origin"] == wanted
                    assert answer.headers.get("Access-Control-Allow-Credentials") == told[1]


@pytest.mark.parametrize("asked", ["x: y", "a,,b", "é"])
async def test_no_header_comes_back_that_is_no_list_of_names(http: ClientSession, asked: str) -> None:
    page = {"Origin": "https://a.example", "Access-Control-Request-Headers": asked}
    settings = Settings(port=0, origins=("https://a.example",))
    async with running(settings=settings) as house, http.options(house.url + EVENTS, headers=page) as answer:
        assert answer.headers["Access-Control-Allow-Origin"] == "https://a.example"
        assert "Access-Control-Allow-Headers" not in answer.headers


async def test_any_page_may_ask_for_the_client_with_any_header(http: ClientSession) -> None:
    async with running() as house, http.options(f"{house.url}/realtime/client.js", headers={"Origin": "x"}) as answer:
        assert answer.status == 204
        assert answer.headers["Access-Control-Allow-Origin"] == answer.headers["Access-Control-Allow-Headers"] == "*"


async def test_an_opaque_origin_is_let_in_where_it_is_listed(http: ClientSession) -> None:
    async with running(settings=Settings(port=0, origins=("null",))) as house:
        async with http.get(house.url + EVENTS, headers={"Origin": "null"}) as answer:
            assert answer.status == 200
        async with http.get(house.url + EVENTS, headers={"Origin": "https://a.example"}) as answer:
            assert answer.status == 403


async def test_a_refused_origin_is_told_on_every_road(http: ClientSession) -> None:
    page = {"Origin": "https://evil.example", "Access-Control-Request-Method": "GET"}
    async with running() as house:
        for method in ("GET", "OPTIONS"):
            async with http.request(method, house.url + EVENTS, headers=page) as answer:
                assert answer.status == 403
                assert (await answer.json())["message"] == "pages of this origin may not connect (SOBRANIE_ORIGINS)"
        ws = await http.ws_connect(f"{house.url}/realtime/ws", headers=page)
        message = await ws.receive(timeout=10)
        assert (message.type, message.data) == (WSMsgType.CLOSE, 4403)
        told = [o for o in house.seen if isinstance(o, PageRefused)]
        assert [(o.reason, o.origin) for o in told] == [("origin", "https://evil.example")]  # once, and not three times
        assert told[0].host == house.url.removeprefix("http://")
        assert "SOBRANIE_ORIGINS" in told[0].remedy
        assert [o for o in house.seen if isinstance(o, ConnectionFailed)] == [
            ConnectionFailed("sse", "origin"), ConnectionFailed("sse", "origin"), ConnectionFailed("ws", "origin"),
        ]  # fmt: skip


async def test_many_refused_origins_are_a_few_lines_of_bounded_length(http: ClientSession) -> None:
    async with running() as house:
        for n in range(3 * LINES):
            async with http.get(house.url + EVENTS, headers={"Origin": f"https://{n}.evil.example/" + "x" * 5000}) as r:
                assert r.status == 403
        told = [o for o in house.seen if isinstance(o, PageRefused)]
        assert len(told) == LINES
        assert all(len(o.origin) <= 200 for o in told)


# Host names.

OURS = ("localhost", "localhost:3000", "127.0.0.1:1", "[::1]:3000", "a.localhost", "10.0.0.7", "sobranie", "LOCALHOST.")
STRANGE = (
    "evil.example",
    "evil.example:3000",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "[::1",
    "a.b:c:d",
    "",
)


async def reached(house: House, http: ClientSession, host: str) -> dict[str, Any]:
    """Statuses, and the close code of a WebSocket (None: it was welcomed), from a page under this name."""
    page = {"Host": host, "Origin": f"http://{host}"}
    found: dict[str, Any] = {}
    for path in ("/metrics", EVENTS, "/realtime/client.js", "/livez", "/readyz", "/nothing"):
        async with http.get(house.url + path, headers=page) as answer:
            found[path] = answer.status
    ws = await http.ws_connect(f"{house.url}/realtime/ws", headers=page)
    found["ws"] = (await ws.receive(timeout=10)).data
    if isinstance(found["ws"], str):
        found["ws"] = None
    await ws.close()
    return found


SERVED = {"/metrics": 200, EVENTS: 200, "/realtime/client.js": 200, "/livez": 200, "/readyz": 200, "/nothing": 404}
REFUSED = {"/metrics": 403, EVENTS: 403, "/realtime/client.js": 403, "/livez": 200, "/readyz": 200, "/nothing": 403}


async def test_a_server_on_loopback_answers_under_its_own_names_alone(http: ClientSession) -> None:
    """DNS rebinding: a stranger's page whose name resolves to 127.0.0.1 is of the server's own origin."""
    async with running() as house:
        for host in OURS:
            assert await reached(house, http, host) == SERVED | {"ws": None}, host
        for host in STRANGE:
            assert await reached(house, http, host) == REFUSED | {"ws": 4403}, host
        assert {o.reason for o in house.seen if isinstance(o, PageRefused)} == {"host"}


@pytest.mark.parametrize(
    ("settings", "ours"),
    [
        ({"hosts": ("app.example", "*.b.example")}, ("app.example:99", "x.b.example")),
        ({"origins": ("https://page.example", "https://*.c.example")}, ("page.example", "x.c.example")),
        ({"hosts": ("*",)}, ("evil.example",)),
    ],
)
async def test_further_names_are_those_that_are_listed(
    http: ClientSession, settings: dict[str, Any], ours: tuple[str, ...]
) -> None:
    async with running(settings=Settings(port=0, **settings)) as house:
        for host in ours:
            assert await reached(house, http, host) == SERVED | {"ws": None}, host
        if settings != {"hosts": ("*",)}:
            assert await reached(house, http, "evil.example") == REFUSED | {"ws": 4403}


async def test_a_server_that_others_reach_answers_under_any_name_unless_some_are_listed(http: ClientSession) -> None:
    for hosts, wanted in (((), 200), (("app.example",), 403)):
        async with running(settings=Settings(host="0.0.0.0", port=0, hosts=hosts)) as house:
            url = f"http://127.0.0.1:{house.server.port}/metrics"
            async with http.get(url, headers={"Host": "other.example"}) as answer:
                assert answer.status == wanted


async def test_the_address_for_metrics_answers_under_its_own_names_too(http: ClientSession) -> None:
    port = free_port()
    settings = Settings(host="0.0.0.0", port=0, metrics_host="127.0.0.1", metrics_port=port)
    async with running(settings=settings) as house:
        house.facts["watches"] = [{"schema": "s", "table": "secret", "problem": "p", "remedy": "SELECT 1"}]
        for host, status, named in (("localhost", 200, True), ("evil.example", 403, False)):
            async with http.get(f"http://127.0.0.1:{port}/metrics", headers={"Host": host}) as answer:
                assert answer.status == status
            async with http.get(f"http://127.0.0.1:{port}/readyz", headers={"Host": host}) as answer:
                assert ("secret" in await answer.text()) is named


@pytest.mark.parametrize(
    ("bound", "only_here"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)],
)
def test_loopback_is_known_by_its_address(bound: str, only_here: bool) -> None:
    assert on_loopback(bound) is only_here


# What strangers learn.


async def test_no_answer_names_what_the_server_is_made_of(http: ClientSession) -> None:
    async with running() as house:
        for path in ("/livez", "/metrics", "/nothing", EVENTS, "/realtime/client.js", "/realtime/ws"):
            async with http.get(house.url + path) as answer:
                assert answer.headers["Server"] == "sobranie", path


async def test_strangers_learn_from_readyz_whether_changes_flow_and_nothing_else(http: ClientSession) -> None:
    async with running() as house:
        house.facts["watches"] = [{"schema": "s", "table": "secret", "problem": "p", "remedy": "SELECT 1"}]
        async with http.get(f"{house.url}/readyz") as answer:
            assert (await answer.json())["checks"] == house.facts
        for header in ({"X-Forwarded-For": "203.0.113.7"}, {"Forwarded": "for=x"}, {"Host": "evil.example"}):
            async with http.get(f"{house.url}/readyz", headers=header) as answer:
                assert json.loads(await answer.text()) == {
                    "status": "ready",
                    "checks": {
                        "database": True,
                        "listen": True,
                        "bus": True,
                        "leader": True,
                        "flow": True,
                        "fuse": True,
                    },
                }
