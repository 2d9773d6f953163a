"""Rows that are read once for all who ask: what is shared must still be new enough for each."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from app.model.change import Table
from app.model.channel import TableAddress, parse
from app.model.errors import BadChannel, Unavailable
from app.model.position import Snapshot
from app.stream.lookup import Lookup
from app.stream.ports import RowReader, Rows
from tests.unit.client_model import Client
from tests.unit.stage import Stage, link

PATIENCE = 5.0  # seconds
LOOKS = 100


class Impatient(Snapshot):
    """A position that is not asked for ever: a loop that never yields would hang the test instead of failing it."""

    looks = 0

    def contains(self, other: Snapshot) -> bool:
        Impatient.looks += 1
        assert Impatient.looks < LOOKS, "the same rows are looked at again and again"
        return super().contains(other)


class Reads(RowReader):
    """Reads that end when they are told to, each with the rows of the position that it was given."""

    def __init__(self) -> None:
        self.ends: list[asyncio.Future[Snapshot]] = []

    async def rows(self, wanted: Sequence[tuple[Table, TableAddress]]) -> Rows:
        end = asyncio.get_running_loop().create_future()
        self.ends.append(end)
        return Rows(await end, 0, {str(address): [] for _, address in wanted})


async def test_rows_older_than_the_client_are_read_again_and_not_looked_at_for_ever(stage: Stage) -> None:
    """The second client comes in the very turn of the loop in which the read of the first has ended."""
    broadcaster, reads = stage.server.broadcaster, Reads()
    lookup = Lookup(broadcaster, stage.world, reads)
    located = [await lookup.locate(parse("posts"))]
    old = broadcaster.point.snapshot
    await stage.commit()
    first = asyncio.create_task(lookup.rows(located, old))
    await stage.until(lambda: reads.ends)
    reads.ends[0].set_result(Impatient(old.xmax, old.xip))
    second = asyncio.create_task(lookup.rows(located, broadcaster.point.snapshot))
    assert (await asyncio.wait_for(first, PATIENCE)).position.contains(old)
    await stage.until(lambda: len(reads.ends) == 2)
    reads.ends[1].set_result(broadcaster.point.snapshot)
    assert (await asyncio.wait_for(second, PATIENCE)).position == broadcaster.point.snapshot


async def test_rows_of_another_incarnation_are_not_shared_with_who_comes_after_it(stage: Stage) -> None:
    """They may be of a primary that was left: their position says nothing here."""
    broadcaster, reads = stage.server.broadcaster, Reads()
    lookup = Lookup(broadcaster, stage.world, reads)
    located = [await lookup.locate(parse("posts"))]
    before = asyncio.create_task(lookup.rows(located, None))
    await stage.until(lambda: reads.ends)
    broadcaster.rebase(stage.world.start(), None)
    after = asyncio.create_task(lookup.rows(located, None))
    await stage.until(lambda: len(reads.ends) == 2)
    for end in reads.ends:
        end.set_result(broadcaster.point.snapshot)
    assert await asyncio.wait_for(before, PATIENCE) is not await asyncio.wait_for(after, PATIENCE)
    await stage.turns()
    assert not lookup._row_reads


async def test_rows_of_where_the_stream_never_comes_are_not_handed_out(stage: Stage) -> None:
    """A primary that has taken over answers, while the stream is still read from the one before."""
    broadcaster, reads = stage.server.broadcaster, Reads()
    lookup = Lookup(broadcaster, stage.world, reads)
    asked = asyncio.create_task(lookup.rows([await lookup.locate(parse("posts"))], None))
    await stage.until(lambda: reads.ends)
    reads.ends[0].set_result(Snapshot(stage.world.now().xmax + 5))
    with pytest.raises(Unavailable):
        await asyncio.wait_for(asked, PATIENCE)


class Listener(Client):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__("listener")
        self.told: list[dict[str, Any]] = []

    def receive(self, message: dict[str, Any]) -> None:
        self.told.append(message)


async def test_a_channel_whose_rows_are_still_to_be_sent_is_subscribed_already(stage: Stage) -> None:
    start, broadcaster, reads, client = stage.token, stage.server.broadcaster, Reads(), Listener()
    await stage.commit()
    stage.server.lookup.row_reader = reads
    client.connect(stage.server)
    stage.clients.append(client)
    link(client).command(type="subscribe", id=1, channels=["posts"], snapshot=True)
    link(client).command(type="subscribe", id=2, channels=["posts"], position=start)
    await stage.until(lambda: reads.ends)
    reads.ends[0].set_result(broadcaster.point.snapshot)
    await stage.until(lambda: client.told[-1].get("id") == 2)
    assert [m["type"] for m in client.told] == ["welcome", "subscribed", "snapshot", "error"]
    assert client.told[-1]["field"] == "channels"


async def test_a_room_is_refused_by_name_while_there_are_none(stage: Stage) -> None:
    with pytest.raises(BadChannel, match="rooms are not part of this version") as refused:
        await stage.server.lookup.locate(parse("room/lobby"))
    assert refused.value.channel == "room/lobby"
