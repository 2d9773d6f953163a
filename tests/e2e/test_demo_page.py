"""The demo page in a real Chromium: what somebody typed and where the focus is survive whatever happens elsewhere."""

import json
from collections.abc import AsyncIterator

import pytest

from harness.database import Database
from harness.server import Servers
from tests.support.browser import Browser, browser_program

pytestmark = pytest.mark.skipif(browser_program() is None, reason="no Chromium here (apt-get install chromium)")
BIG = 9007199254740993  # 2^53 + 1
TYPED = "document.activeElement.value = 'half typed'; true"
ROW = "document.querySelector('#posts .row')"
SMALL = """JSON.stringify([...document.querySelectorAll('button, input, textarea')].filter(e => e.checkVisibility())
  .filter(e => { const r = e.getBoundingClientRect(); return r.height < 44 || r.width < 44; }).map(e => e.outerHTML))"""


@pytest.fixture
async def page(database: Database, servers: Servers) -> AsyncIterator[Browser]:
    """The page, live, with one post."""
    await database.execute("INSERT INTO posts (id, author_id, title) VALUES (%s, %s, 'first')", BIG, BIG)
    server = await servers.start(SOBRANIE_DEMO="1")
    async with Browser() as browser:
        await browser.open(server.url + "/")
        await browser.sees("document.querySelector('#state').dataset.state === 'live'", "a live page")
        yield browser


async def test_what_is_half_typed_stays_when_the_row_changes_elsewhere_and_only_that_is_saved(
    database: Database, page: Browser
) -> None:
    await page.run(f"{ROW}.querySelector('.edits').click()")
    await page.run(TYPED)
    await database.execute("UPDATE posts SET title = 'theirs', body = 'their body'")
    await page.sees(f"{ROW}.querySelector('.note')?.textContent.includes('Title is now “theirs”')", "the note")
    assert await page.run("document.activeElement.name + '=' + document.activeElement.value") == "title=half typed"
    assert await page.run(f"{ROW}.querySelector('textarea').value") == "their body"
    await page.run("document.activeElement.form.requestSubmit()")
    await page.sees(f"{ROW}.querySelector('.title').textContent === 'half typed'", "the saved title")
    await page.sees(f"!{ROW}.querySelector('form') && document.activeElement.textContent === 'Edit'", "the form closed")
    assert await database.execute("SELECT id, title, body FROM posts") == [(BIG, "half typed", "their body")]


async def test_what_is_half_typed_in_a_row_that_is_deleted_elsewhere_can_be_inserted_anew(
    database: Database, page: Browser
) -> None:
    await page.run(f"{ROW}.querySelector('.edits').click()")
    await page.run(TYPED)
    await database.execute("DELETE FROM posts")
    await page.sees(f"{ROW}.querySelector('.note').textContent.includes('deleted elsewhere')", "the note")
    assert await page.run("document.activeElement.value") == "half typed"
    await page.run("document.activeElement.form.requestSubmit()")
    await page.sees(
        "document.querySelectorAll('#posts .row').length === 1 && !document.querySelector('.edit')", "a row"
    )
    assert await database.execute("SELECT author_id, title FROM posts") == [(BIG, "half typed")]


async def test_the_focus_stays_on_a_button_whose_row_changes_and_goes_on_where_its_row_is_deleted(
    database: Database, page: Browser
) -> None:
    await page.run(f"{ROW}.querySelector('.danger').focus()")
    await database.execute("UPDATE posts SET title = 'second'")
    await page.sees("document.querySelector('#posts .title').textContent === 'second'", "the change")
    assert await page.run("document.activeElement.textContent") == "Delete"
    await database.execute("INSERT INTO posts (author_id, title) VALUES (1, 'other')")
    await page.sees("document.querySelectorAll('#posts .row').length === 2", "the other row")
    await database.execute("DELETE FROM posts WHERE id = %s", BIG)
    await page.sees("document.activeElement.textContent === 'Edit'", "the focus in the other row")


async def test_many_rows_leave_the_row_that_is_edited_on_the_page(database: Database, page: Browser) -> None:
    await page.run(f"{ROW}.querySelector('.edits').click()")
    await page.run(TYPED)
    await database.execute(
        "INSERT INTO posts (author_id, title) SELECT n, 'post ' || n FROM generate_series(1, 3000) n"
    )
    await page.sees("document.body.innerText.includes('post 3000')", "the last row")
    assert await page.run("document.activeElement.value") == "half typed"
    assert await page.run("document.activeElement.checkVisibility()")
    assert await page.run("document.querySelectorAll('#posts .row').length") == 25


async def test_keys_beyond_2_53_keep_their_digits_wherever_the_page_shows_or_sends_them(
    database: Database, page: Browser
) -> None:
    assert str(BIG) in await page.run(f"{ROW}.querySelector('.who, .meta').textContent.split('author')[1]")
    form = "document.querySelector('form[data-table=posts]')"
    await page.run(f"{form}.author_id.value = '{BIG + 2}'; {form}.title.value = 'big'; {form}.requestSubmit()")
    await page.sees(f"document.body.innerText.includes('author {BIG + 2}')", "the author's digits")
    assert await database.execute("SELECT author_id FROM posts WHERE title = 'big'") == [(BIG + 2,)]
    await page.run("[...document.querySelectorAll('#posts .row .danger')].at(-1).click()")
    await page.sees("document.querySelectorAll('#posts .row').length === 1", "the first post deleted")
    assert await database.execute("SELECT title FROM posts") == [("big",)]


async def test_what_is_wrong_is_said_in_the_labels_words_and_describes_the_field(page: Browser) -> None:
    form = "document.querySelector('form[data-table=posts]')"
    for author, title, field, words in [("1", "", "title", "Title is needed"), ("x", "y", "author_id", "Author must")]:
        await page.run(f"{form}.author_id.value = '{author}'; {form}.title.value = '{title}'; {form}.requestSubmit()")
        await page.sees(f"{form}.{field}.ariaInvalid === 'true'", "the field marked")
        told = f"document.getElementById({form}.{field}.getAttribute('aria-describedby')).textContent"
        assert words in await page.run(told)
        assert await page.run(f"document.activeElement === {form}.{field}")


async def test_percentiles_of_few_delays_are_never_below_the_last(page: Browser) -> None:
    script = """import('/demo/chart.js').then(({percentile}) => JSON.stringify(
      [percentile([1, 9], .95), percentile([1, 2, 9], .5), percentile([], .5) ?? null, percentile([4], .95)]))"""
    assert json.loads(await page.run(script)) == [9, 2, None, 4]


@pytest.mark.parametrize("width", [390, 1280])
async def test_all_can_be_touched_nothing_overflows_and_the_columns_line_up(
    database: Database, page: Browser, width: int
) -> None:
    await database.execute(
        "INSERT INTO posts (author_id, title, body) VALUES (1, %s, %s)", "x" * 900, "https://" + "y" * 900
    )
    await page.sees("document.body.innerText.includes('yyyy')", "the long row")
    await page.call("Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=False)
    await page.sees(f"innerWidth === {width}", "the width")
    assert json.loads(await page.run(SMALL)) == []
    assert await page.run("document.documentElement.scrollWidth <= innerWidth")
    lefts = """JSON.stringify(['.panels', '.feeds'].map(
      s => [...document.querySelector(s).children].map(e => e.getBoundingClientRect().left)))"""
    panels, feeds = json.loads(await page.run(lefts))
    assert panels == feeds
    assert await page.run(f"{ROW}.querySelector('.title').dir") == "auto"


async def test_a_server_that_is_gone_is_told_with_the_next_try(servers: Servers, page: Browser) -> None:
    for server in servers.all:
        await server.kill()
    await page.sees("document.querySelector('#offline').checkVisibility()", "the banner")
    assert "may be out of date" in await page.run("document.querySelector('#offline-text').textContent")
