"""A real browser, with no library: EventSource and WebSocket as the standards have them, and the demo page."""

import json
from collections.abc import AsyncIterator

import pytest

from harness.database import Database
from harness.facts import eventually
from harness.server import Server, Servers
from tests.support.browser import Browser, browser_program

pytestmark = pytest.mark.skipif(browser_program() is None, reason="no Chromium here (apt-get install chromium)")

EVENT_SOURCE = """
window.got = []; window.ids = []; window.source = new EventSource("/realtime/events?channel=posts");
source.onmessage = event => { got.push(JSON.parse(event.data)); ids.push(event.lastEventId); }; true"""
WEB_SOCKET = """
window.got = []; window.socket = new WebSocket(location.origin.replace("http", "ws") + "/realtime/ws");
socket.onmessage = event => got.push(JSON.parse(event.data));
socket.onopen = () => socket.send(JSON.stringify({type: "subscribe", id: 1, channels: ["posts:author_id=1"]})); true"""
SUBSCRIBED = "got.some(m => m.type === 'subscribed')"
TITLES = "JSON.stringify(got.flatMap(m => m.changes || []).map(c => c.data.title))"


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with Browser() as made:
        yield made


@pytest.fixture
async def shown(servers: Servers) -> Server:
    return await servers.start(SOBRANIE_DEMO="1")


async def test_an_event_source_receives_changes_and_resumes_by_itself_when_its_server_dies(
    database: Database, servers: Servers, browser: Browser
) -> None:
    server = await servers.start()
    await browser.open(server.url + "/livez")
    await browser.run(EVENT_SOURCE)
    await browser.sees(SUBSCRIBED, "subscribed")
    await database.execute("INSERT INTO posts (author_id, title) VALUES (1, 'first')")
    await browser.sees("got.some(m => m.changes)", "the first change")
    await server.kill()
    await database.execute("INSERT INTO posts (author_id, title) VALUES (1, 'while it was dead')")
    await server.start()
    await database.execute("INSERT INTO posts (author_id, title) VALUES (1, 'last')")
    await browser.sees(f"{TITLES}.includes('last')", "the last change, after it came back by itself", 40)
    assert json.loads(await browser.run(TITLES)) == ["first", "while it was dead", "last"]


async def test_a_web_socket_receives_the_changes_of_its_route_only(
    database: Database, server: Server, browser: Browser
) -> None:
    await browser.open(server.url + "/livez")
    await browser.run(WEB_SOCKET)
    await browser.sees(SUBSCRIBED, "subscribed")
    await database.execute("INSERT INTO posts (author_id, title) VALUES (2, 'theirs'), (1, 'mine: é ☃ \u2028 <b>')")
    await browser.sees("got.some(m => m.changes)", "a change")
    assert json.loads(await browser.run(TITLES)) == ["mine: é ☃ \u2028 <b>"]


async def test_the_demo_page_shows_a_row_that_is_inserted_and_keeps_the_console_clean(
    database: Database, shown: Server, browser: Browser
) -> None:
    await browser.open(shown.url + "/")
    await database.execute("INSERT INTO posts (author_id, title) VALUES (1, 'shown on the page <i>as text</i>')")
    # The page may have joined just after the first row: a second one must then come live.
    await browser.sees("document.readyState === 'complete'", "the page")
    titles = iter(range(1000))

    async def shown_live() -> bool:
        await database.execute("INSERT INTO posts (author_id, title) VALUES (1, %s)", f"live <i>{next(titles)}</i>")
        return bool(await browser.run("document.body.innerText.includes('live <i>')"))

    await eventually(shown_live, 15, "an inserted row on the page", every=0.2)
    await database.execute("INSERT INTO notifications (user_id, kind, body) VALUES (1, 'hello', 'a note for one')")
    await browser.sees("/hello|a note for one/.test(document.body.innerText)", "a notification on the page")
    assert browser.errors == []


async def test_there_is_no_demo_page_on_a_real_database_unless_asked_for(server: Server) -> None:
    assert (await server.get("/"))[0] == 404
