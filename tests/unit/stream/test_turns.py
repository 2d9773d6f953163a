"""Turns: first come first served, so many in one turn of the loop, and nobody keeps a place."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from app.stream.turns import Turns
from harness.facts import turn


@given(st.integers(1, 5), st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=12))
def test_at_most_so_many_go_on_in_one_turn_of_the_loop_in_the_order_of_asking(
    many: int, people: list[tuple[int, bool]]
) -> None:
    went: list[tuple[int, int, int]] = []  # the loop's turn, who, the how-manieth time

    async def play() -> None:
        turns, clock, ended = Turns(many), [0], asyncio.Event()

        async def tick() -> None:
            while not ended.is_set():
                clock[0] += 1
                await turn()

        async def person(n: int, times: int) -> None:
            for time in range(times):
                await turns.take()
                went.append((clock[0], n, time))

        ticking = asyncio.create_task(tick())
        tasks = [asyncio.create_task(person(n, times)) for n, (times, _) in enumerate(people)]
        await turn()
        for task, (_, gives_up) in zip(tasks, people, strict=True):
            if gives_up:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        ended.set()
        await ticking

    asyncio.run(play())
    staying = [n for n, (_, gives_up) in enumerate(people) if not gives_up]
    assert sorted((n, t) for _, n, t in went if n in staying) == [(n, t) for n in staying for t in range(people[n][0])]
    per_turn: dict[int, int] = {}
    for clock, _, _ in went:
        per_turn[clock] = per_turn.get(clock, 0) + 1
    assert max(per_turn.values(), default=0) <= 2 * many  # the clock ticks somewhere within a turn
    firsts = [n for _, n, t in went if t == 0 and n in staying]
    assert firsts == sorted(firsts)
