"""A transaction too large to hold: its pages are read once for all, and by nobody whom they do not concern."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from app.core.audience import Channel
from app.model.change import Transaction, text_json
from app.model.errors import DatabaseAway, PositionRefused
from app.stream import trimming
from app.stream.large import Kept, LargeTransaction, Messages, Page, Summary, Wanted
from app.stream.replays import LARGE
from tests.unit.log_model import Pages
from tests.unit.stage import Stage, joined, keys

STATEMENTS = 12


def whole(stage: Stage, kept: int = 1 << 30) -> LargeTransaction:
    (found,) = stage.world._between(stage.world.past[0], stage.world.now())[-1:]
    return LargeTransaction(
        Pages(stage.world, found), Kept[Page](kept), Kept[Messages](1 << 20), Kept[Summary](1 << 20)
    )


def channel(route: str = "", value: str = "") -> Channel:
    name = f"posts:{route}={value}" if route else "posts"
    return Channel(name, 10, (route,) if route else (), (value,) if route else (), text_json(name))


async def walked(large: LargeTransaction, *channels: Channel) -> list[int]:
    """The pages that a client of these channels reads."""
    wanted, n, found = Wanted(channels), 0, list[int]()
    while (following := await large.next(wanted, n)) is not None:
        await large.page(following)
        found.append(following)
        n = following + 1
    return found


@pytest.fixture
async def bulk(stage: Stage) -> Stage:
    stage.world.past.append(stage.world.now())
    await stage.commit_many(STATEMENTS)
    return stage


async def test_many_who_want_all_of_it_share_each_page(bulk: Stage) -> None:
    large = whole(bulk)
    walks = await asyncio.gather(*(walked(large, channel()) for _ in range(50)))
    pages = await large.reader.count()
    assert pages > 2
    assert walks == [list(range(pages))] * 50
    assert bulk.world.pages == pages


async def test_whom_it_does_not_concern_passes_over_it_and_all_of_them_cost_one_reading(bulk: Stage) -> None:
    large = whole(bulk)
    pages = await large.reader.count()
    others = [walked(large, channel("author_id", str(n))) for n in range(2, 52)]
    assert await asyncio.gather(*others) == [[]] * 50
    assert bulk.world.pages == pages
    assert await walked(large, channel("author_id", "1")) == list(range(pages))
    (only,) = await walked(large, channel("id", "1003"))
    page = await large.page(only)
    assert "1003" in [c.new_values[0] for c in page.transaction.changes if c.new_values]


async def test_a_client_of_another_table_reads_nothing_of_it(bulk: Stage) -> None:
    notes = Channel("notes", 20, (), (), b'"notes"')
    assert await walked(whole(bulk), notes) == []
    assert bulk.world.pages == 0


async def test_pages_that_were_dropped_are_read_again_and_are_the_same(bulk: Stage) -> None:
    large = whole(bulk, kept=1)
    first = await walked(large, channel())
    read = bulk.world.pages
    assert await walked(large, channel()) == first
    assert bulk.world.pages > read
    posts = {"posts": channel()}
    one = [m.json for m in (await large.page(0)).messages(posts, 200, set())[0]]
    await large.page(1)
    assert [m.json for m in (await large.page(0)).messages(posts, 200, set())[0]] == one


async def told(large: LargeTransaction, *channels: Channel) -> list[bytes]:
    """All that a client of these channels is told."""
    wanted, n, found = Wanted(channels), 0, list[bytes]()
    theirs = {c.name: c for c in channels}
    while (following := await large.next(wanted, n)) is not None:
        found += [m.json for m in (await large.messages(following, theirs, 200, set()))[0]]
        n = following + 1
    return found


async def test_who_takes_it_later_than_others_is_told_the_same_and_reads_no_page_again(
    bulk: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.stream.large.FEW", 0)
    large, posts, notes = whole(bulk, kept=1), channel(), Channel("notes", 20, (), (), b'"notes"')
    with large.used():
        with large.used():
            first = await told(large, posts)
        read = bulk.world.pages
        assert read == await large.reader.count()
        assert await told(large, posts) == first
        assert await told(large, posts, notes) == first, "another table's channel makes no difference"
        assert bulk.world.pages == read
    assert await told(large, posts) == first
    assert bulk.world.pages == 2 * read, "nothing stays for nobody"


async def test_who_waits_for_the_same_page_shares_its_messages_which_count_once(
    bulk: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.stream.large.FEW", 0)
    large, posts, made = whole(bulk), channel(), list[int]()
    render = Page.messages

    def counted(page: Page, *arguments: Any) -> tuple[Messages, bool]:
        made.append(1)
        return render(page, *arguments)

    monkeypatch.setattr(Page, "messages", counted)
    with large.used():
        await asyncio.gather(*(told(large, posts) for _ in range(20)))
        assert len(made) == await large.reader.count()
        large._told.put((large, "again"), [], 7)
        size = large._told.size
        large._told.put((large, "again"), [], 7)
        assert large._told.size == size
    assert large._told.size == 0


async def test_of_more_large_transactions_than_are_shared_each_that_is_in_use_is_told_of_a_purge(bulk: Stage) -> None:
    (found,) = bulk.world._between(bulk.world.past[0], bulk.world.now())[-1:]
    replays = bulk.server.broadcaster.replays
    first, read = replays.large(Pages(bulk.world, found)), bulk.world.pages
    for xid in range(LARGE):
        replays.large(Pages(bulk.world, replace(found, xid=10_000 + xid)))
    assert await first.next(Wanted([channel()]), 0) == 0
    inner, asked, ends = first.reader.page, asyncio.Event(), asyncio.Event()

    async def page(n: int) -> Transaction:
        asked.set()
        await ends.wait()
        return await inner(n)

    first.reader.page = page  # type: ignore[method-assign]
    reading = asyncio.create_task(first.page(0))
    await asked.wait()
    replays.forget(bulk.world.now())
    ends.set()
    await reading
    assert bulk.world.pages == read + 2, "what was read before the purge is read again"


async def test_freed_pages_and_messages_go_back_to_the_system(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = asyncio.Event()
    monkeypatch.setattr(trimming, "TRIM_BYTES", 1)
    monkeypatch.setattr(trimming, "TRIM_SECONDS", 0)
    monkeypatch.setattr(trimming, "_trim", asked.set)
    stage.world.held = 0
    client = stage.client()
    client.subscribe(["posts"], None)
    await stage.until(joined(client, "posts"))
    assert not asked.is_set()
    await stage.commit_many(STATEMENTS)
    await stage.until(lambda: len(keys(client)) == STATEMENTS)
    await asyncio.wait_for(asked.wait(), 10)


async def test_a_page_that_was_being_read_when_all_was_forgotten_is_read_again(bulk: Stage) -> None:
    large = whole(bulk)
    assert await large.next(Wanted([channel()]), 0) == 0
    read, begun, ends = large.reader.page, asyncio.Event(), asyncio.Event()

    async def page(n: int) -> Transaction:
        begun.set()
        await ends.wait()
        return await read(n)

    large.reader.page = page  # type: ignore[method-assign]
    reading = asyncio.create_task(large.page(0))
    await begun.wait()
    large.forget()
    ends.set()
    await reading
    assert bulk.world.pages == 2
    bulk.world.horizon = bulk.world.now()
    with pytest.raises(PositionRefused):
        await large.page(1)


async def test_a_failure_is_told_to_all_who_wait_and_the_next_may_succeed(bulk: Stage) -> None:
    large = whole(bulk)
    bulk.world.away = True
    found = await asyncio.gather(*(walked(large, channel()) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(error, DatabaseAway) for error in found)
    bulk.world.away = False
    assert await walked(large, channel())


async def test_live_clients_pass_over_a_bulk_of_other_rows_and_go_on_with_what_is_theirs(stage: Stage) -> None:
    stage.world.held = 0
    clients = [stage.client() for _ in range(20)]
    for n, client in enumerate(clients):
        client.subscribe([f"posts:author_id={n + 2}"], None)
    for n, client in enumerate(clients):
        await stage.until(joined(client, f"posts:author_id={n + 2}"))
    await stage.commit_many(STATEMENTS)
    theirs = await stage.commit(author=5)
    await stage.until(lambda: all(c.stream.position == stage.token for c in clients))
    assert [keys(c, f"posts:author_id={n + 2}") for n, c in enumerate(clients)] == [
        [theirs] if n == 3 else [] for n in range(20)
    ]
    assert stage.world.pages <= STATEMENTS + 1
