"""The index of a stretch says what the hub says, whatever the channels."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from app.core.hub import Hub
from app.core.index import Index, Seen
from app.core.routing import empties, touched, views
from app.model.change import Form
from app.model.channel import TableAddress, parse
from app.model.position import Snapshot
from tests.unit.client_model import CHANNELS
from tests.unit.log_model import FIRST, World


@given(st.integers(0, 10**6), st.lists(st.sampled_from(CHANNELS), min_size=1, unique=True))
def test_each_set_of_channels_sees_what_it_sees_in_the_hub(seed: int, names: list[str]) -> None:
    world = World(Random(seed))
    for _ in range(12):
        writer = world.begin()
        for _ in range(world.random.randint(1, 4)):
            world.write(writer)
        world.commit(writer)
    transactions = world._between(Snapshot(FIRST), world.now())
    hub = Hub()
    channels = []
    for name in CHANNELS:
        address = parse(name)
        assert isinstance(address, TableAddress)
        channel = hub.acquire(world.tables[address.table].relid, name, address.route, address.values)
        if name in names:
            channels.append(channel)
    expected = [found for found in hub.seen(transactions) if found[1] in channels]
    seen = Index(transactions).seen(channels)
    assert sorted(map(str, _told(seen))) == sorted(map(str, _told(expected)))
    assert [c.id for c, _, _ in seen] == [c.id for c, _, _ in expected]
    for channel in channels:
        assert [f for f in seen if f[1] is channel] == [f for f in expected if f[1] is channel]


@given(st.integers(0, 10**6))
def test_a_route_is_touched_by_what_its_channels_see(seed: int) -> None:
    world = World(Random(seed))
    writer = world.begin()
    for _ in range(world.random.randint(1, 8)):
        world.write(writer)
    world.commit(writer)
    changes = [c for t in world._between(Snapshot(FIRST), world.now()) for c in t.changes if not empties(c)]
    for table in {c.table.relid: c.table for c in changes}.values():
        theirs = [c for c in changes if c.table is table]
        both = tuple(range(len(table.columns)))
        for picks in {*table.picks.values(), both}:
            assert touched(theirs, picks) == {values for c in theirs for values, _ in views(c, picks)}


def _told(found: list[Seen]) -> list[tuple[str, str, Form]]:
    return [(c.id, channel.name, form) for c, channel, form in found]
