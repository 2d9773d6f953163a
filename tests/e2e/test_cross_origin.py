"""Pages of other origins in a real browser: what a listed one can do, and that a refused one learns that it is."""

from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from harness.database import Database
from harness.server import Server, Servers
from tests.support.browser import Browser, browser_program

pytestmark = pytest.mark.skipif(browser_program() is None, reason="no Chromium here (apt-get install chromium)")

CONNECT = """(async () => {{
  const {{ connect }} = await import("{server}/realtime/client.js");
  window.states = []; window.got = [];
  window.live = connect("{server}{path}", {{ channels: ["posts"], transport: "{transport}",
    onchange: (c) => got.push(c.row), onstate: (s) => states.push(s.name) }});
}})()"""
# What fetch-based stand-ins for EventSource do: a header of their own, and so a preflight.
RESUME = """fetch("{server}/realtime/events?channel=posts", {{ headers: {{ "Last-Event-ID": "{position}" }} }})
  .then(async (answer) => {{
    const reader = answer.body.getReader(); let said = "";
    while (!said.includes('"changes"')) said += new TextDecoder().decode((await reader.read()).value);
    reader.cancel(); return said; }})"""
WITH_COOKIES = """new Promise((done) => {{
  const source = new EventSource("{server}/realtime/events?channel=posts", {{ withCredentials: true }});
  source.onmessage = (event) => {{ source.close(); done(JSON.parse(event.data).type); }};
  source.onerror = () => {{ source.close(); done("error"); }}; }})"""


@pytest.fixture
async def page() -> AsyncIterator[str]:
    """An origin that is not the server's."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><link rel=icon href='data:,'>", content_type="text/html")

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


PATHS = {"websocket": "/realtime/ws", "sse": "/realtime/events"}


@pytest.mark.parametrize("transport", PATHS)
async def test_a_page_that_may_not_connect_is_told_and_does_not_try_for_ever(
    server: Server, page: str, transport: str
) -> None:
    async with Browser() as browser:
        await browser.open(page)
        await browser.run(CONNECT.format(server=server.url, path=PATHS[transport], transport=transport))
        await browser.sees("live.state.name === 'closed'", "closed for good")
        assert await browser.run("live.state.reason") == "pages of this origin may not connect (SOBRANIE_ORIGINS)"
        assert await browser.run("states.filter((s) => s === 'connecting').length") == 1
    lines = [line for line in server.output().splitlines() if '"page_refused"' in line]
    assert len(lines) == 1
    assert all(told in lines[0] for told in (page, server.url.removeprefix("http://"), "SOBRANIE_ORIGINS"))


async def test_a_listed_page_follows_resumes_with_a_header_and_sends_cookies(
    database: Database, servers: Servers, page: str
) -> None:
    server = await servers.start(SOBRANIE_ORIGINS="http://127.0.0.1:*")
    position = await database.value("SELECT realtime.position()")
    async with Browser() as browser:
        await browser.open(page)
        for transport, path in PATHS.items():
            await browser.run(CONNECT.format(server=server.url, path=path, transport=transport))
            await browser.sees("live.state.name === 'live'", "live")
            await database.execute("INSERT INTO posts (author_id) VALUES (1)")
            await browser.sees("got.length === 1", "the change")
            await browser.run("live.close()")
        said = await browser.run(RESUME.format(server=server.url, position=position))
        assert '"action":"INSERT"' in said
        assert await browser.run(WITH_COOKIES.format(server=server.url)) == "welcome"
