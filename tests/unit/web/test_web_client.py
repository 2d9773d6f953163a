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
  window.live = connect("{path}", {{ channels: {channels}, transport: "{transport}",
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
        if message.type is WSMsgType.TEXT:
            await self._play(request, Peer(message.json(), ws, None))
        return ws

    async def events(self, request: web.Request) -> web.StreamResponse:
        asked: dict[str, Any] = {"channels": request.query.getall("channel"), "position": request.query.get("position")}
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


async def start(browser: Browser, transport: str = "websocket", channels: str = "['posts']") -> None:
    path = "/ws" if transport == "websocket" else "/events"
    await browser.run(START.format(path=path, transport=transport, channels=channels))


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
    await browser.run(START.format(path="/events?position=refused", transport="sse", channels="['posts']"))
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

    # An EventSource hides the answer, so the client asks twice.
    script.parts = [refuse, serve] if transport == "websocket" else [refuse, refuse, serve]
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
