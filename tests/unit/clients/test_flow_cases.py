"""Interleavings that random schedules seldom meet, one by one."""

import pytest

from app.model.change import Batch, Table, Transaction
from app.model.errors import DatabaseAway
from app.model.position import Snapshot
from tests.unit.log_model import Pages
from tests.unit.stage import Stage, joined, keys


async def test_a_database_lost_between_the_parts_of_a_unit_ends_the_connection(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = stage.token
    stage.world.held = 0  # every transaction is too large to hold
    missed = await stage.commit_many(8)
    page = Pages.page

    async def fail(pages: Pages, n: int) -> Transaction:
        monkeypatch.undo()  # only this once
        raise DatabaseAway("gone")

    async def first(pages: Pages, n: int) -> Transaction:
        monkeypatch.setattr(Pages, "page", fail)
        return await page(pages, n)

    monkeypatch.setattr(Pages, "page", first)
    client = stage.client()
    client.subscribe(["posts"], start)
    await stage.until(lambda: not client.connected)
    client.cut()
    assert keys(client) == []
    client.connect(stage.server)
    await stage.until(lambda: keys(client) == missed)
    assert stage.world.pages > 1
    assert not client.stream.faults
    assert client.stream.duplicates


async def test_a_definition_that_changes_during_a_subscribe_is_seen(stage: Stage) -> None:
    found = stage.world.current

    async def current(schema: str, name: str) -> Table | None:
        if name == "notes" and stage.world.tables["posts"].routes:
            stage.world.alter("posts", None)
            await stage.server.broadcaster.pull()
        return await found(schema, name)

    stage.world.current = current  # type: ignore[method-assign]
    client = stage.client()
    client.subscribe(["posts:author_id=1", "notes"], None)
    await stage.until(lambda: "posts:author_id=1" not in client.stream.pending)
    assert "has no route" in client.refused[0]
    await stage.until(joined(client, "notes"))


async def test_a_client_between_two_overlapping_batches_is_served_what_only_the_older_has(stage: Stage) -> None:
    for _ in range(4):
        await stage.commit(pull=False)
    log, server = stage.world._between(Snapshot(100), Snapshot(104)), stage.server.broadcaster

    def batch(since: Snapshot, upto: Snapshot) -> Batch:
        held = [t for t in log if upto.sees(t.xid) and not since.sees(t.xid)]
        return Batch(since, upto, upto.xmax - 1, 1, held, [], 0, 0.0)

    elsewhere = Snapshot(103, frozenset({101}))  # a server that saw 101 open for longer
    server.apply(batch(Snapshot(100), Snapshot(102, frozenset({100}))))
    server.apply(batch(Snapshot(100), elsewhere))
    server.apply(batch(Snapshot(103), Snapshot(104)))
    client = stage.client()
    client.subscribe(["posts"], server.mint(elsewhere))
    await stage.until(lambda: keys(client))
    assert keys(client) == [101, 103]
