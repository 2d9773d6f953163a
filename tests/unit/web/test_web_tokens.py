"""Tokens on their way in: by header, message, cookie and URL, over WebSocket and event streams, and until they end."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import jwt
import pytest
from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType, WSServerHandshakeError
from cryptography.hazmat.primitives.asymmetric import ed25519

from app.access.verifier import Verifier
from app.clients import door as doors
from app.model.claims import LEEWAY
from app.model.errors import UNAUTHORIZED
from app.model.observations import Authenticated
from app.model.settings import Settings
from harness.facts import eventually
from tests.support.forge import SECRET, good, jwk, signed
from tests.support.provider import providing
from tests.unit.house import House, running

KEYED = Settings(port=0, jwt_secrets=(SECRET,))
PAGE = "https://app.example"
EVENTS = "/realtime/events?channel=posts"


class Visit:
    """A house, and someone who comes to it."""

    def __init__(self, house: House, http: ClientSession) -> None:
        self.house = house
        self.http = http
        self.sockets: list[ClientWebSocketResponse] = []

    async def socket(self, token: str | None = None, path: str = "/realtime/ws", **headers: str) -> "Socket":
        ws = await self.http.ws_connect(self.house.url + path, headers=sent(token, headers))
        self.sockets.append(ws)
        return Socket(ws)

    async def events(self, token: str | None = None, path: str = EVENTS, **headers: str) -> tuple[int, dict[str, Any]]:
        """The status, and the first message that is no welcome."""
        async with self.http.get(self.house.url + path, headers=sent(token, headers)) as answer:
            if answer.status != 200:
                found: dict[str, Any] = json.loads(await answer.text())
                return answer.status, found
            async for line in answer.content:
                if line.startswith(b"data: ") and b'"type":"welcome"' not in line:
                    return 200, json.loads(line[6:])
            raise AssertionError("the stream ended")

    def pass_time(self, seconds: float) -> None:
        """So many seconds later by the door's clock, which does then what is due."""
        self.house.door._clock = lambda: time.time() + seconds
        self.house.door.turn()

    def counted(self, method: str, result: str, reason: str = "") -> int:
        return self.house.seen.count(Authenticated(method, result, reason))  # type: ignore[arg-type]


def sent(token: str | None, headers: dict[str, str]) -> dict[str, str]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return named | ({"Authorization": f"Bearer {token}"} if token is not None else {})


class Socket:
    def __init__(self, ws: ClientWebSocketResponse) -> None:
        self.ws = ws

    async def say(self, **message: Any) -> dict[str, Any]:
        """The answer."""
        await self.ws.send_json(message | {"id": 7})
        while (answer := await self.hear()).get("id") != 7:
            pass
        return answer

    async def hear(self, kind: str = "") -> dict[str, Any]:
        """The next message, of that kind if one is given."""
        while True:
            frame = await asyncio.wait_for(self.ws.receive(), 10)
            assert frame.type is WSMsgType.TEXT, frame
            message: dict[str, Any] = frame.json()
            if message["type"] == kind or not kind:
                return message

    async def end(self) -> int:
        """The close code."""
        while (frame := await asyncio.wait_for(self.ws.receive(), 10)).type is WSMsgType.TEXT:
            pass
        assert frame.type is WSMsgType.CLOSE, frame
        return int(frame.data)


@asynccontextmanager
async def visiting(settings: Settings = KEYED) -> AsyncIterator[Visit]:
    async with running(settings=settings) as house, ClientSession() as http:
        visit = Visit(house, http)
        yield visit
        for ws in visit.sockets:
            await ws.close()


@pytest.fixture
async def visit() -> AsyncIterator[Visit]:
    async with visiting() as made:
        yield made


SUBSCRIBE = {"type": "subscribe", "channels": ["posts"]}


# WebSocket.


async def test_a_token_in_the_header_is_enough(visit: Visit) -> None:
    socket = await visit.socket(signed("42"))
    assert (await socket.say(**SUBSCRIBE))["type"] == "subscribed"
    assert [c.identity.user for c in visit.house.everyone] == ["42"]
    assert visit.counted("header", "accepted") == 1


async def test_a_browser_shows_its_token_in_the_first_message_and_until_then_only_ping_is_served(visit: Visit) -> None:
    socket = await visit.socket()
    assert (await socket.hear())["type"] == "welcome"
    assert (await socket.say(type="ping"))["type"] == "pong"
    for message in (SUBSCRIBE, {"type": "unsubscribe", "channels": ["posts"]}):
        answer = await socket.say(**message)
        assert (answer["type"], answer["code"]) == ("error", "unauthorized")
        assert "show a token first" in answer["message"]
    answer = await socket.say(type="auth", token=signed("42", ttl=3600))
    assert answer["type"] == "authenticated"
    assert answer["user"] == "42"
    assert answer["expires_at"].endswith("+00:00")
    assert (await socket.say(**SUBSCRIBE))["type"] == "subscribed"
    visit.pass_time(60)
    assert (await socket.say(type="ping"))["type"] == "pong", "the first seconds no longer count"


@pytest.mark.parametrize("token", ["", "x.y.z", signed(ttl=-3600), signed(secret="another " + SECRET)])
async def test_a_first_token_that_does_not_hold_ends_the_connection_with_one_text_for_all(
    visit: Visit, token: str
) -> None:
    socket = await visit.socket()
    answer = await socket.say(type="auth", token=token)
    assert (answer["code"], answer["message"]) == ("unauthorized", UNAUTHORIZED)
    assert await socket.end() == 4401


@pytest.mark.parametrize("anonymous", ["allow", "refuse"])
async def test_a_header_that_does_not_hold_is_refused_and_never_taken_for_none(anonymous: Any) -> None:
    async with visiting(Settings(port=0, jwt_secrets=(SECRET,), anonymous=anonymous)) as visit:
        for header in (f"Bearer {signed(ttl=-3600)}", "Bearer", "Bearer ", "Basic dTpw", "", "bearer x"):
            socket = await visit.socket(Authorization=header)
            message = await socket.hear()
            assert (message["type"], message["code"]) == ("error", "unauthorized"), header
            assert await socket.end() == 4401
            status, message = await visit.events(Authorization=header)
            assert (status, message["code"]) == (401, "unauthorized"), header
        assert visit.house.everyone == []


async def test_who_shows_no_token_in_time_is_gone(visit: Visit) -> None:
    sockets = [await visit.socket() for _ in range(3)]
    named = await visit.socket(signed())
    visit.pass_time(4)
    assert (await sockets[0].say(type="ping"))["type"] == "pong"
    visit.pass_time(6)
    for socket in sockets:
        assert (await socket.hear("error"))["code"] == "unauthorized"
        assert await socket.end() == 4401
    assert (await named.say(type="ping"))["type"] == "pong"
    assert visit.counted("none", "ended", "late") == 3


async def test_so_many_may_wait_to_show_a_token_and_others_come_meanwhile(
    visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doors, "WAITING", 2)
    first, _ = await visit.socket(), await visit.socket()
    with pytest.raises(WSServerHandshakeError) as caught:
        await visit.socket()
    assert caught.value.status == 503
    assert caught.value.headers is not None
    assert "Retry-After" in caught.value.headers
    assert (await (await visit.socket(signed())).say(type="ping"))["type"] == "pong"
    await first.say(type="auth", token=signed())
    third = await visit.socket()
    await third.ws.close()
    await eventually(lambda: not visit.house.door.full, 5, "who leaves makes room")


async def test_a_token_is_refreshed_in_place_for_the_same_user_alone(visit: Visit) -> None:
    socket = await visit.socket(signed("42", ttl=60, role="staff"))
    await socket.say(**SUBSCRIBE)
    for token in (signed("43"), signed("42", ttl=-3600), "x"):
        assert (await socket.say(type="auth", token=token))["code"] == "unauthorized"
    [connection] = visit.house.everyone
    assert str(connection.identity.claims["role"]) == "staff", "the old one is in force"
    assert (await socket.say(type="auth", token=signed("42", ttl=7200, role="guest")))["type"] == "authenticated"
    assert str(connection.identity.claims["role"]) == "guest"
    visit.pass_time(600)
    await visit.house.insert(body="still here")
    assert (await socket.hear("changes"))["changes"][0]["data"]["body"] == "still here"
    assert visit.counted("message", "refused", "subject") == 1


async def test_a_refused_refresh_leaves_the_old_token_in_force_until_its_end(visit: Visit) -> None:
    socket = await visit.socket(signed("42", ttl=60))
    await socket.say(type="auth", token=signed("42", ttl=-600))
    visit.pass_time(60 + LEEWAY - 2)
    assert (await socket.say(type="ping"))["type"] == "pong"
    visit.pass_time(60 + LEEWAY + 1)
    assert await socket.end() == 4401


@pytest.mark.parametrize(("life", "before"), [(3600, 360), (120, 30), (20, 30)])
async def test_the_end_of_a_token_is_told_before_and_comes_within_a_second(
    visit: Visit, life: int, before: int
) -> None:
    socket = await visit.socket(signed("42", ttl=life))
    await socket.hear("welcome")
    if life > before:
        visit.pass_time(life - before - 2)
        assert (await socket.say(type="ping"))["type"] == "pong"
    visit.pass_time(max(life - before, 0) + 1.1)
    told = await socket.hear()
    assert told["type"] == "auth_expiring"
    assert 0 <= told["in_ms"] <= before * 1000
    visit.pass_time(life + LEEWAY - 1.1)
    assert (await socket.say(type="ping"))["type"] == "pong"
    visit.pass_time(life + LEEWAY + 1.1)
    assert (await socket.hear())["code"] == "unauthorized"
    assert await socket.end() == 4401
    assert visit.counted("none", "ended", "expired") == 1


async def test_whom_a_key_let_in_that_is_gone_is_told_and_out_within_a_minute(visit: Visit) -> None:
    socket, other = await visit.socket(signed("42")), await visit.socket(signed("43"))
    [theirs] = [c for c in visit.house.everyone if c.identity.user == "42"]
    theirs.identity = replace(theirs.identity, key="k1")
    visit.house.door.keys_gone(frozenset({"k1", "k2"}))
    visit.pass_time(2)
    assert (await socket.hear("auth_expiring"))["in_ms"] <= 25_000
    visit.pass_time(58)
    assert await socket.end() == 4401
    assert (await other.say(type="ping"))["type"] == "pong"


async def test_an_anonymous_client_may_show_a_token_later_and_then_stays_with_it() -> None:
    async with visiting(Settings(port=0, jwt_secrets=(SECRET,), anonymous="allow")) as visit:
        socket = await visit.socket()
        assert (await socket.say(**SUBSCRIBE))["type"] == "subscribed"
        visit.pass_time(60)
        assert (await socket.say(type="auth", token="x"))["code"] == "unauthorized"
        assert (await socket.say(type="ping"))["type"] == "pong"
        assert (await socket.say(type="auth", token=signed("42")))["user"] == "42"
        assert (await socket.say(type="auth", token=signed("43")))["code"] == "unauthorized"
        assert visit.counted("none", "anonymous") == 1


async def test_a_server_without_a_key_takes_no_token_and_leaves_headers_to_what_is_in_front_of_it() -> None:
    async with visiting(Settings(port=0)) as visit:
        socket = await visit.socket(Authorization="Basic dTpw")
        assert (await socket.say(**SUBSCRIBE))["type"] == "subscribed"
        answer = await socket.say(type="auth", token=signed())
        assert (answer["code"], answer["message"]) == ("unauthorized", "this server has no key, and so takes no token")
        assert (await socket.say(type="ping"))["type"] == "pong"
        assert (await visit.events("whatever"))[1]["type"] == "subscribed"


@pytest.mark.parametrize("token", [None, 7, ["x"], {"x": 1}])
async def test_a_token_is_a_string(visit: Visit, token: object) -> None:
    answer = await (await visit.socket()).say(type="auth", token=token)
    assert (answer["code"], answer["field"]) == ("bad_request", "token")


# Event streams.


async def test_an_event_stream_needs_its_token_with_the_request(visit: Visit) -> None:
    async with visit.http.get(visit.house.url + EVENTS) as answer:
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert (await answer.json())["code"] == "unauthorized"
    assert (await visit.events(signed()))[1]["type"] == "subscribed"
    assert visit.house.everyone == [] or visit.house.everyone[0].identity.user == "42"


async def test_an_event_stream_ends_with_its_token_and_says_so(visit: Visit) -> None:
    async with visit.http.get(visit.house.url + EVENTS, headers=sent(signed(ttl=60), {})) as answer:
        lines = answer.content.iter_any()
        heard = b""
        while b'"type":"subscribed"' not in heard:
            heard += await anext(lines)
        visit.pass_time(45)
        while b'"type":"auth_expiring"' not in heard:
            heard += await anext(lines)
        visit.pass_time(60 + LEEWAY + 1.1)
        async with asyncio.timeout(5):
            rest = b"".join([piece async for piece in lines])
        assert b'"code":"unauthorized"' in rest


async def test_for_minutes_after_its_end_a_token_is_no_final_refusal(visit: Visit) -> None:
    """The page may be renewing its cookie, and an EventSource gives up on any status but 200."""
    for ttl, status in ((-60, 200), (-LEEWAY - 290, 200), (-LEEWAY - 310, 401)):
        found, message = await visit.events(signed(ttl=ttl))
        assert (found, message["code"]) == (status, "unauthorized"), ttl


# Cookies and URLs.

COOKIE = Settings(port=0, jwt_secrets=(SECRET,), cookie="session", origins=(PAGE,))
SELF = "self"


@pytest.mark.parametrize(
    ("origin", "site", "ws", "sse"),
    [
        (SELF, None, True, True),
        (PAGE, None, True, True),
        (PAGE, "cross-site", True, True),
        ("https://evil.example", "cross-site", False, False),
        ("null", None, False, False),
        (None, "same-origin", False, True),
        (None, "same-site", False, False),
        (None, "cross-site", False, False),
        (None, "none", False, False),
        (None, None, False, False),
    ],
)
async def test_a_cookie_counts_for_our_pages_alone(origin: str | None, site: str | None, ws: bool, sse: bool) -> None:
    async with visiting(COOKIE) as visit:
        headers = {"Cookie": f"other=1; session={signed()}"}
        if origin is not None:
            headers["Origin"] = visit.house.url if origin == SELF else origin
        if site is not None:
            headers["Sec_Fetch_Site"] = site
        socket = await visit.socket(**headers)
        frame = await asyncio.wait_for(socket.ws.receive(), 10)
        assert (frame.type is WSMsgType.TEXT and frame.json()["type"] == "welcome") is ws
        status, message = await visit.events(**headers)
        assert (message["type"] == "subscribed", status == 200) == (sse, sse)
        assert visit.counted("cookie", "accepted") == ws + sse


async def test_a_cookie_without_any_sign_of_a_page_counts_where_no_origin_is_listed() -> None:
    async with visiting(Settings(port=0, jwt_secrets=(SECRET,), cookie="session")) as visit:
        assert (await visit.events(Cookie=f"session={signed()}"))[1]["type"] == "subscribed"
        assert (await visit.events(Cookie="session=x"))[0] == 401
        assert (await visit.events(Cookie="another=x"))[0] == 401


async def test_a_cookie_never_counts_for_everybody() -> None:
    everybody = Settings(port=0, jwt_secrets=(SECRET,), cookie="session", origins=("*",), anonymous="allow")
    async with visiting(everybody) as visit:
        headers = {"Cookie": f"session={signed()}", "Origin": "https://evil.example"}
        assert (await visit.events(**headers))[0] == 401
        assert (await (await visit.socket(**headers)).hear())["code"] == "unauthorized"
        assert (await visit.events(Origin="https://evil.example"))[1]["type"] == "subscribed"


async def test_the_header_comes_before_the_cookie() -> None:
    async with visiting(COOKIE) as visit:
        assert (await visit.events("x", Cookie=f"session={signed()}", Origin=PAGE))[0] == 401
        assert (await visit.events(signed(), Cookie="session=x", Origin=PAGE))[0] == 200


async def test_a_page_reads_with_credentials_only_under_its_exact_origin() -> None:
    async with visiting(COOKIE) as visit:
        for token, status in ((signed(), 200), ("x", 401)):
            async with visit.http.get(visit.house.url + EVENTS, headers=sent(token, {"Origin": PAGE})) as answer:
                assert answer.status == status
                assert answer.headers["Access-Control-Allow-Origin"] == PAGE
                assert answer.headers["Access-Control-Allow-Credentials"] == "true"
                assert "Origin" in answer.headers["Vary"]
        ask = {"Origin": PAGE, "Access-Control-Request-Headers": "authorization"}
        async with visit.http.options(visit.house.url + EVENTS, headers=ask) as answer:
            assert answer.headers["Access-Control-Allow-Headers"] == "authorization"


async def test_a_token_in_the_url_is_refused_unless_a_setting_allows_it(visit: Visit) -> None:
    socket = await visit.socket(path=f"/realtime/ws?token={signed()}")
    assert "Authorization: Bearer" in (await socket.hear())["message"]
    assert await socket.end() == 4401
    assert (await visit.events(path=f"{EVENTS}&token={signed()}"))[0] == 400
    async with visiting(Settings(port=0, jwt_secrets=(SECRET,), token_in_url=True)) as allowed:
        assert (await (await allowed.socket(path=f"/realtime/ws?token={signed()}")).hear())["type"] == "welcome"
        assert (await allowed.events(path=f"{EVENTS}&token={signed()}"))[1]["type"] == "subscribed"
        assert (await allowed.events(path=f"{EVENTS}&token=x"))[0] == 401
        assert allowed.counted("url", "accepted") == 2


# Published keys.


async def test_whom_a_published_key_let_in_goes_with_the_key() -> None:
    old, new = (ed25519.Ed25519PrivateKey.generate() for _ in range(2))

    def made(private: ed25519.Ed25519PrivateKey, kid: str) -> str:
        return jwt.encode(good(aud="us"), private, algorithm="EdDSA", headers={"kid": kid})

    async with providing() as provider:
        provider.publish(jwk(old, "EdDSA", kid="old"), jwk(new, "EdDSA", kid="new"))
        async with visiting(Settings(port=0, jwks_url=provider.url, jwt_audience="us")) as visit:
            verifier = visit.house.door.verifier
            assert isinstance(verifier, Verifier)
            assert verifier.jwks is not None
            theirs, other = await visit.socket(made(old, "old")), await visit.socket(made(new, "new"))
            await theirs.hear("welcome")
            await other.hear("welcome")
            assert provider.asked == 1
            provider.publish(jwk(new, "EdDSA", kid="new"))
            verifier.jwks._began = None  # as after half a minute
            await verifier.jwks.look_again()
            visit.pass_time(2)
            assert (await theirs.hear())["type"] == "auth_expiring"
            assert (await theirs.say(type="auth", token=made(old, "old")))["code"] == "unauthorized"
            assert (await theirs.say(type="auth", token=made(new, "new")))["type"] == "authenticated"
            visit.pass_time(60)
            assert (await theirs.say(type="ping"))["type"] == "pong", "it has shown another token in time"
            assert (await other.say(type="ping"))["type"] == "pong"
            await verifier.jwks.close()
