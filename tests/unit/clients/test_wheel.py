"""The wheel of timers against a list that is looked through each second."""

import random

from app.clients.wheel import BUCKETS, Wheel


class Item:
    def __init__(self) -> None:
        self.due = 0


def test_what_is_put_in_comes_out_in_its_second_whatever_else_happens() -> None:
    chance = random.Random(7)
    now = 1_000_000.0
    wheel: Wheel[Item] = Wheel(now)
    wanted: dict[Item, float] = {}
    for _ in range(5000):
        for _ in range(chance.randrange(4)):
            item = chance.choice([Item(), *list(wanted)[:3]])
            at = now + chance.choice([-5.0, 0.5, 3.0, 255.0, 256.0, 257.0, 4000.0]) * chance.random()
            wheel.put(item, at)
            wanted[item] = max(at, now)
        if wanted and chance.random() < 0.3:
            gone = chance.choice(list(wanted))
            del wanted[gone]
            wheel.take_out(gone)
            wheel.take_out(gone)
        now += chance.choice([0.3, 1.0, 1.0, 1.0, 2.5, 300.0])
        out = set(wheel.turn(now))
        assert out >= {item for item, at in wanted.items() if at <= now - 1}, "none is late"
        assert all(wanted.pop(item) <= now for item in out), "none is early"
        assert set(wheel) == set(wanted)
        assert all(item.due == 0 for item in out)


def test_one_that_is_taken_out_by_another_of_its_second_does_not_come_out() -> None:
    wheel: Wheel[Item] = Wheel(0)
    items = [Item(), Item()]
    for item in items:
        wheel.put(item, 5)
    out = []
    for item in wheel.turn(10):
        out.append(item)
        for other in items:
            wheel.take_out(other)
    assert len(out) == 1


def test_a_clock_that_goes_back_brings_nothing_early_and_loses_nothing() -> None:
    wheel: Wheel[Item] = Wheel(1000)
    item = Item()
    wheel.put(item, 1010)
    assert list(wheel.turn(500)) == []
    assert list(wheel.turn(1009)) == []
    assert list(wheel.turn(1000 + 10 * BUCKETS)) == [item]
