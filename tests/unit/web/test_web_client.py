"""The browser client in a real Chromium, against a peer that says exactly what a test tells it to say.

What a real server says is tried elsewhere; here connections are cut in places that a real one is hard to bring to.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import WSMsgType, web

from app.web.server import STATIC
from harness.facts import eventually, holds, turn
from tests.support.browser import Browser, browser_program

pytestmark = pytest.mark.skipif(browser_program() is None, reason="no Chromium here (apt-get install chromium)")

WELCOME = {"type": "welcome", "server": "s", "version": "v", "heartbeat": 25, "limits": {}}
START = """(async () => {{
  const {{ connect }} = await import("/client.js");
  window.mistakes = []; addEventListener("error", (event) => mistakes.push(event.message));
  window.got = []; window.resets = []; window.errors = []; window.states = [];
  window.live = connect("{path}", {{ channels: {channels}, transport: "{transport}", {more}
    onchange: (c) => {{ got.push(c.id); if (c.id === "throw") throw new Error("a mistake of the page"); }},
    onreset: (m) => resets.push(m.reason), onerror: (m) => errors.push(m.code),
    onstate: (s) => states.push(s.name + (s.reason ? ": " + s.reason : "")) }});
}})()"""
GONE = {"type": "error", "id": 1, "code": "bad_channel", "message": "no table 'gone'", "channel": "gone"}
Said = Callable[["Peer"], Awaitable[None]]


def changes(*ids: str, position: str | None = None) -> dict[str, Any]:
    end = {"more": True} if position is None else {"position": position}
    return {"type": "changes", "changes": [{"channel": "posts", "id": id} for id in ids]} | end


def subscribed(position: str) -> dict[str, Any]:
    return {"type": "subscribed", "id": 1, "channels": ["posts"], "position": position}


class Peer:
    """One attempt of the client: what it asked for, and the socket or stream to answer on."""

    def __init__(
        self, asked: dict[str, Any], ws: web.WebSocketResponse | None, stream: web.StreamResponse | None
    ) -> None:
        self.asked = asked
        self.ws = ws
        self.stream = stream

    async def say(self, *messages: dict[str, Any]) -> None:
        for message in messages:
            if self.ws is not None:
                await self.ws.send_json(message)
            elif self.stream is not None:
                await self.stream.write(b"data: " + json.dumps(message).encode() + b"\n\n")

    async def close(self, code: int) -> None:
        assert self.ws is not None
        await self.ws.close(code=code)


class Script:
    """What is said on the first attempt, the second, and so on; each ends with a cut, unless it stays."""

    def __init__(self) -> None:
        self.parts: list[Said] = []
        self.attempts: list[dict[str, Any]] = []
        self.url = ""

    async def ws(self, request: web.Request) -> web.StreamResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        await ws.send_json(WELCOME)
        message = await ws.receive()
        token = None
        if message.type is WSMsgType.TEXT and message.json()["type"] == "auth":
            token, message = message.json()["token"], await ws.receive()
        if message.type is WSMsgType.TEXT:
            await self._play(request, Peer(message.json() | {"token": token}, ws, None))
        return ws

    async def events(self, request: web.Request) -> web.StreamResponse:
        asked: dict[str, Any] = {"channels": request.query.getall("channel"), "position": request.query.get("position")}
        asked["token"] = request.headers.get("Authorization")
        if asked["position"] == "refused":
            return web.json_response({"type": "error", "code": "bad_channel", "message": "no such table"}, status=400)
        if "gone" in asked["channels"]:
            self.attempts.append(asked)
            return web.json_response(GONE, status=400)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await self._play(request, Peer(asked, None, response))
        return response

    async def _play(self, request: web.Request, peer: Peer) -> None:
        part = self.parts[len(self.attempts)] if len(self.attempts) < len(self.parts) else stay
        self.attempts.append(peer.asked)
        await part(peer)
        if request.transport is not None:
            await turn()
            request.transport.close()


async def stay(_: Peer) -> None:
    await asyncio.Event().wait()


@pytest.fixture
async def script() -> AsyncIterator[Script]:
    script = Script()

    async def client(_: web.Request) -> web.FileResponse:
        return web.FileResponse(STATIC / "client.js", headers={"Content-Type": "text/javascript"})

    async def page(_: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><link rel=icon href='data:,'>", content_type="text/html")

    app = web.Application()
    app.add_routes([web.get("/", page), web.get("/client.js", client)])
    app.add_routes([web.get("/ws", script.ws), web.get("/events", script.events)])
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    script.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    yield script
    await runner.cleanup()


@pytest.fixture
async def browser(script: Script) -> AsyncIterator[Browser]:
    async with Browser() as made:
        await made.open(script.url)
        yield made


async def start(
    browser: Browser, transport: str = "websocket", channels: str = "['posts']", more: str = "", path: str = ""
) -> None:
    path = path or ("/ws" if transport == "websocket" else "/events")
    await browser.run(START.format(path=path, transport=transport, channels=channels, more=more))


@pytest.mark.parametrize("transport", ["websocket", "sse"])
async def test_a_unit_that_was_cut_off_comes_again_and_its_known_part_is_dropped(
    script: Script, browser: Browser, transport: str
) -> None:
    async def cut_in_the_midst(peer: Peer) -> None:
        await peer.say(
            subscribed("P0"), {"type": "position", "position": "P0"}, changes("a", position="P1"), changes("b")
        )
        await browser.sees("got.length === 2", "both changes have been handed on")

    async def from_the_beginning(peer: Peer) -> None:
        await peer.say(subscribed("P1"), changes("b", "c"), changes("d", position="P2"))
        await stay(peer)

    script.parts = [cut_in_the_midst, from_the_beginning]
    await start(browser, transport)
    await browser.sees("got.length >= 4", "the rest")
    assert await browser.run("got.join()") == "a,b,c,d"
    assert await browser.run("live.position") == "P2"
    assert [asked.get("position") for asked in script.attempts] == [None, "P1"]


@pytest.mark.parametrize("transport", ["websocket", "sse"])
async def test_who_has_too_many_connections_waits_for_as_long_as_it_was_told(
    script: Script, browser: Browser, transport: str
) -> None:
    async def limited(peer: Peer) -> None:
        await peer.say({"type": "error", "code": "rate_limited", "message": "too many", "retry_after_ms": 123_456})
        await browser.sees("live.state.name === 'waiting'", "it waits")  # a cut may take what was not read yet

    script.parts = [limited]
    await start(browser, transport)
    await browser.sees("live.state.name === 'waiting'", "it waits for as long as it was told")
    assert 100_000 < await browser.run("live.state.retryAt - Date.now()") <= 123_456


async def test_the_position_of_an_answer_does_not_move_a_position_that_is_held(
    script: Script, browser: Browser
) -> None:
    async def first(peer: Peer) -> None:
        await peer.say(subscribed("P0"), changes("a", position="P1"))
        await browser.sees("live.position === 'P1'", "the first unit")

    async def answer_alone(peer: Peer) -> None:
        await peer.say(subscribed("P9"))
        await browser.sees("states.filter((s) => s === 'live').length === 2", "the second answer")

    script.parts = [first, answer_alone]
    await start(browser)
    await eventually(lambda: len(script.attempts) == 3)
    assert [asked.get("position") for asked in script.attempts] == [None, "P1", "P1"]


async def test_a_restart_is_waited_out_for_as_long_as_the_server_says(script: Script, browser: Browser) -> None:
    async def restart(peer: Peer) -> None:
        await peer.say(subscribed("P0"), {"type": "reconnect", "after_ms": 40, "reason": "restart"})
        await peer.close(1012)

    script.parts = [restart]
    await start(browser)
    await eventually(lambda: len(script.attempts) == 2)
    assert await browser.run("states.filter((s) => !s.startsWith('connecting'))[0]") == "live"


@pytest.mark.parametrize("code", [1002, 1007, 1009, 4400, 4401, 4403])
async def test_a_close_code_that_forbids_it_is_final(script: Script, browser: Browser, code: int) -> None:
    script.parts = [lambda peer: peer.close(code)]
    await start(browser)
    await browser.sees("live.state.name === 'closed'", "closed")
    await holds(lambda: len(script.attempts) == 1, 0.8, "no second attempt")


async def test_a_channel_that_is_refused_is_final_and_told(script: Script, browser: Browser) -> None:
    async def refuse(peer: Peer) -> None:
        await peer.say({"type": "error", "id": 1, "code": "bad_channel", "message": "no such table"})
        await stay(peer)

    script.parts = [refuse]
    await start(browser)
    await browser.sees("live.state.name === 'closed'", "closed")
    assert await browser.run("[errors.join(), live.state.reason].join()") == "bad_channel,no such table"


async def test_an_event_stream_that_is_refused_is_final_and_says_why(script: Script, browser: Browser) -> None:
    await start(browser, "sse", path="/events?position=refused")
    await browser.sees("live.state.name === 'closed'", "closed")
    assert await browser.run("live.state.reason") == "no such table"


async def test_a_reset_is_told_and_moves_the_position(script: Script, browser: Browser) -> None:
    async def reset(peer: Peer) -> None:
        await peer.say(
            subscribed("P0"), {"type": "reset", "channels": ["posts"], "reason": "expired", "position": "P7"}
        )
        await stay(peer)

    script.parts = [reset]
    await start(browser)
    await browser.sees("live.position === 'P7'", "the new position")
    assert await browser.run("resets.join()") == "expired"


async def test_a_mistake_in_the_page_costs_it_no_change(script: Script, browser: Browser) -> None:
    async def say(peer: Peer) -> None:
        await peer.say(subscribed("P0"), changes("a", "throw", "b", position="P1"))
        await stay(peer)

    script.parts = [say]
    await start(browser)
    await browser.sees("live.position === 'P1'", "the unit")
    assert await browser.run("got.join()") == "a,throw,b"
    assert "a mistake of the page" in await browser.run("mistakes.join()")


async def test_a_pause_keeps_the_position_and_a_resume_goes_on_from_it(script: Script, browser: Browser) -> None:
    async def first(peer: Peer) -> None:
        await peer.say(subscribed("P0"), changes("a", position="P1"))
        await stay(peer)

    script.parts = [first]
    await start(browser)
    await browser.sees("live.position === 'P1'", "the unit")
    await browser.run("live.pause()")
    await holds(lambda: len(script.attempts) == 1, 1.0, "it stays away")
    await browser.run("live.resume()")
    await eventually(lambda: len(script.attempts) == 2)
    assert script.attempts[1]["position"] == "P1"


async def test_a_mistake_in_the_page_costs_it_no_change_where_errors_can_not_be_reported(
    script: Script, browser: Browser
) -> None:
    async def say(peer: Peer) -> None:
        await peer.say(subscribed("P0"), changes("a", "throw", "b", position="P1"))
        await stay(peer)

    script.parts = [say]
    await browser.run("delete window.reportError; window.said = []; console.error = (e) => said.push(String(e))")
    await start(browser)
    await browser.sees("live.position === 'P1'", "the unit")
    assert await browser.run("got.join()") == "a,throw,b"
    assert "a mistake of the page" in await browser.run("said.join()")


@pytest.mark.parametrize("transport", ["websocket", "sse"])
async def test_a_channel_that_is_gone_is_left_out_and_the_others_go_on(
    script: Script, browser: Browser, transport: str
) -> None:
    async def refuse(peer: Peer) -> None:
        await peer.say(GONE)
        await stay(peer)

    async def serve(peer: Peer) -> None:
        await peer.say(subscribed("P0"), changes("a", position="P1"))
        await stay(peer)

    script.parts = [refuse, serve]
    await start(browser, transport, "['posts', 'gone', 'more']")
    await browser.sees("live.position === 'P1'", "the unit of the others")
    asked = [attempt["channels"] for attempt in script.attempts]
    assert asked[0] == ["posts", "gone", "more"]
    assert asked[-1] == ["posts", "more"]
    assert await browser.run("[errors.join(), live.state.name].join()") == "bad_channel,live"


async def test_a_client_whose_last_channel_goes_is_closed(script: Script, browser: Browser) -> None:
    async def unwatch(peer: Peer) -> None:
        await peer.say(subscribed("P0"), GONE, {"type": "unsubscribed", "channels": ["posts"]})
        await stay(peer)

    script.parts = [unwatch]
    await start(browser)
    await browser.sees("live.state.name === 'closed'", "closed")
    assert await browser.run("live.state.reason") == "no channel is left"


@pytest.mark.parametrize("options", ["undefined", "{}", "{ channels: [] }", "{ channels: [1] }"])
async def test_no_channels_are_a_mistake_that_is_told_at_once(script: Script, browser: Browser, options: str) -> None:
    told = await browser.run(
        f"(async () => {{ const {{ connect }} = await import('/client.js');"
        f"try {{ connect('/ws', {options}); }} catch (e) {{ return e.message; }} }})()"
    )
    assert told == 'channels: a list of at least one name, such as ["posts"]'


async def test_one_channel_may_be_named_by_itself(script: Script, browser: Browser) -> None:
    await start(browser, channels="'posts'")
    await eventually(lambda: [asked["channels"] for asked in script.attempts] == [["posts"]])


TOKENS = "token: async () => { window.asked = (window.asked ?? 0) + 1; return `t${asked}`; },"
UNAUTHORIZED = {"type": "error", "code": "unauthorized", "message": "get a new one"}


async def live(peer: Peer) -> None:
    await peer.say(subscribed("P0"), {"type": "position", "position": "P0"})


@pytest.mark.parametrize("transport", ["websocket", "sse"])
async def test_each_connection_has_a_token_of_its_own_and_the_end_of_one_is_not_for_good(
    script: Script, browser: Browser, transport: str
) -> None:
    async def ends(peer: Peer) -> None:
        await live(peer)
        await browser.sees("live.state.name === 'live'", "live")
        await peer.say(UNAUTHORIZED)
        if peer.ws is not None:
            await peer.close(4401)

    async def refuses(peer: Peer) -> None:
        await peer.say(UNAUTHORIZED)
        if peer.ws is not None:
            await peer.close(4401)

    script.parts = [ends, refuses]
    await start(browser, transport, more=TOKENS)
    await eventually(lambda: len(script.attempts) == 3, 10, "it comes back with another token")
    bearer = "" if transport == "websocket" else "Bearer "
    assert [asked["token"] for asked in script.attempts] == [f"{bearer}t{n}" for n in (1, 2, 3)]
    assert [asked["position"] for asked in script.attempts if "position" in asked][-2:] == ["P0", "P0"]


async def test_over_a_websocket_a_token_is_refreshed_in_place(script: Script, browser: Browser) -> None:
    renewed: list[Any] = []

    async def expiring(peer: Peer) -> None:
        await live(peer)
        await peer.say({"type": "auth_expiring", "in_ms": 30000})
        assert peer.ws is not None
        renewed.append(await peer.ws.receive_json())
        await stay(peer)

    script.parts = [expiring]
    await start(browser, more=TOKENS)
    await eventually(lambda: renewed, 10, "another token")
    assert renewed[0] == {"type": "auth", "id": 2, "token": "t2"}
    await browser.run("dispatchEvent(new Event('online'))")
    await holds(lambda: len(script.attempts) == 1, 0.5, "it stays connected")
    assert await browser.run("asked") == 2, "that one is new"


async def test_over_an_event_stream_a_token_is_refreshed_by_a_new_stream_from_the_same_position(
    script: Script, browser: Browser
) -> None:
    async def expiring(peer: Peer) -> None:
        await live(peer)
        await peer.say({"type": "auth_expiring", "in_ms": 30000})
        await stay(peer)

    async def goes_on(peer: Peer) -> None:
        await live(peer)
        await stay(peer)

    script.parts = [expiring, goes_on]
    await start(browser, "sse", more=TOKENS)
    await eventually(lambda: len(script.attempts) == 2, 10, "a new stream")
    assert [asked["token"] for asked in script.attempts] == ["Bearer t1", "Bearer t2"]
    assert script.attempts[1]["position"] == "P0"


async def test_a_page_that_comes_back_to_the_front_refreshes_a_token_that_is_not_new(
    script: Script, browser: Browser
) -> None:
    renewed: list[Any] = []

    async def hears(peer: Peer) -> None:
        await live(peer)
        assert peer.ws is not None
        renewed.append(await peer.ws.receive_json())
        await stay(peer)

    script.parts = [hears]
    await start(browser, more=TOKENS)
    await browser.sees("live.state.name === 'live'", "live")
    await browser.run("window.now = Date.now; Date.now = () => now.call(Date) + 31000; true")
    await browser.run("document.dispatchEvent(new Event('visibilitychange'))")
    await eventually(lambda: renewed, 10, "another token")
    assert renewed[0]["token"] == "t2"


async def test_a_page_that_has_no_token_now_is_asked_again_later(script: Script, browser: Browser) -> None:
    failing = TOKENS.replace("return", "if (asked < 3) throw new Error('away'); return")
    script.parts = [stay]
    await start(browser, more=failing)
    await eventually(lambda: len(script.attempts) == 1, 10, "a connection")
    assert script.attempts[0]["token"] == "t3"
    assert "waiting: no token: away" in await browser.run("states.join()")


async def test_an_event_stream_in_small_pieces_and_large_ones_is_read_whole(script: Script, browser: Browser) -> None:
    async def pieces(peer: Peer) -> None:
        assert peer.stream is not None
        said = b"".join(
            b"data: %s\n\n" % json.dumps(message, ensure_ascii=False).encode()
            for message in (subscribed("P0"), changes("é☃", "b" * 300_000), changes("c", position="P1"))
        )
        await peer.stream.write(b": a comment\n\nretry: 5\nid: 7\n")
        for at in range(0, len(said), 7001):
            await peer.stream.write(said[at : at + 7001])
        await stay(peer)

    script.parts = [pieces]
    await start(browser, "sse")
    await browser.sees("live.position === 'P1'", "the unit")
    assert await browser.run("got.map((id) => id.length).join()") == "2,300000,1"
