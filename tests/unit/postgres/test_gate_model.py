"""The gate as an explicit model: every interleaving of writers and the reader is tried.

The gate is advisory lock 1 (docs/capture.md 3). The model has PostgreSQL's rules:
- a try for a share of the gate fails while somebody else holds it exclusively or waits for it;
- an exclusive request is granted when no holder is left, or given up after its timeout;
- a notification is sent at commit and arrives later;
- a transaction's locks end after its changes are visible.

The promise: in no state that can be reached is a committed change unseen while the reader sleeps with the gate held,
and nothing is on the way to wake it.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

# A writer: idle → tries the gate → (shares it | will notify) → committed (its lock still held) → gone.
IDLE, SHARING, NOTIFYING, COMMITTED_SHARING, GONE = range(5)
# The reader: hot (reads when it likes) → asking → granted → forgets → reads → sleeps → woken (forgets) → reads → sleeps
# again, or is hot. The last two are for planted faults.
HOT, ASKING, GRANTED, FORGOTTEN, ASLEEP, WOKEN, READ_BEFORE, READ_AWAKE = range(8)


@dataclass(frozen=True)
class State:
    writers: tuple[int, ...]
    unseen: frozenset[int] = frozenset()  # committed, not read yet
    on_the_way: int = 0  # notifications sent and not received by the reader's connection
    arrived: bool = False  # received, not looked at
    reader: int = HOT
    holds: bool = False  # the gate, exclusively
    waits: bool = False  # a request for the gate is queued
    flag: bool = False  # "the reader sleeps", for the planted fault that uses a flag instead of the lock


@dataclass(frozen=True)
class Rules:
    """The real gate, and the faults that are planted to see that the model finds them."""

    reads_after_grant: bool = True
    forgets_before_read: bool = True
    forgets_before_waking_read: bool = True
    waiter_fails_try: bool = True
    asks_for_lock: bool = True
    sleeps_after_denial: bool = False
    holds_while_asleep: bool = True


def steps(state: State, rules: Rules) -> Iterator[State]:
    for number, writer in enumerate(state.writers):
        yield from _writer_steps(state, rules, number, writer)
    yield from _delivery(state)
    yield from _reader_steps(state, rules)


def _writer_steps(state: State, rules: Rules, number: int, writer: int) -> Iterator[State]:
    def become(to: int) -> tuple[int, ...]:
        return (*state.writers[:number], to, *state.writers[number + 1 :])

    if writer == IDLE:
        refused = state.holds or (state.waits and rules.waiter_fails_try)
        if not rules.asks_for_lock:
            refused = state.flag
        yield replace(state, writers=become(NOTIFYING if refused else SHARING))
    elif writer == SHARING:  # the change becomes visible before the lock is released
        yield replace(state, writers=become(COMMITTED_SHARING), unseen=state.unseen | {number})
        yield replace(state, writers=become(GONE))  # rolled back
    elif writer == COMMITTED_SHARING:
        yield replace(state, writers=become(GONE))
    elif writer == NOTIFYING:
        yield replace(
            state, writers=become(GONE), unseen=state.unseen | {number}, on_the_way=state.on_the_way + 1
        )  # signalled only once the change is visible
        yield replace(state, writers=become(GONE))


def _delivery(state: State) -> Iterator[State]:
    if state.on_the_way:
        yield replace(state, on_the_way=state.on_the_way - 1, arrived=True)


def _reader_steps(state: State, rules: Rules) -> Iterator[State]:
    seen: frozenset[int] = frozenset()
    if state.reader == HOT:
        yield replace(state, unseen=seen)
        if not rules.asks_for_lock:
            yield replace(state, reader=FORGOTTEN if rules.reads_after_grant else ASLEEP, flag=True)
        else:
            yield replace(state, reader=ASKING, waits=True)
    elif state.reader == ASKING:
        yield replace(state, unseen=seen)  # it goes on reading while it waits
        if not any(w in (SHARING, COMMITTED_SHARING) for w in state.writers):
            yield replace(state, reader=GRANTED, waits=False, holds=True)
        denied = ASLEEP if rules.sleeps_after_denial else HOT
        yield replace(state, reader=denied, waits=False)
    elif state.reader == GRANTED:
        if not rules.reads_after_grant:
            yield replace(state, reader=ASLEEP)
        elif rules.forgets_before_read:
            yield replace(state, reader=FORGOTTEN, arrived=False)
        else:
            yield replace(state, reader=READ_BEFORE, unseen=seen)
    else:
        yield from _sleeping_steps(state, rules, seen)


def _sleeping_steps(state: State, rules: Rules, seen: frozenset[int]) -> Iterator[State]:
    if state.reader == READ_BEFORE:
        yield replace(state, reader=ASLEEP, arrived=False, holds=rules.holds_while_asleep)
    elif state.reader == FORGOTTEN:
        if state.unseen:  # something was found: awake again
            yield replace(state, reader=HOT, unseen=seen, holds=False, flag=False)
        else:
            yield replace(state, reader=ASLEEP, holds=state.holds and rules.holds_while_asleep)
    elif state.reader == ASLEEP and state.arrived:
        if rules.forgets_before_waking_read:
            yield replace(state, reader=WOKEN, arrived=False)
        else:
            yield replace(state, reader=READ_AWAKE, unseen=seen)
    elif state.reader == WOKEN:
        yield replace(state, reader=HOT, unseen=seen, holds=False, flag=False)
        yield replace(state, reader=ASLEEP, unseen=seen)  # commits are rare: the gate is kept
    elif state.reader == READ_AWAKE:
        yield replace(state, reader=ASLEEP, arrived=False)


def lost(state: State) -> bool:
    """A change that nobody will tell the reader of."""
    return state.reader == ASLEEP and bool(state.unseen) and not state.on_the_way and not state.arrived


def explore(writers: int, rules: Rules) -> tuple[int, State | None]:
    """How many states there are, and the first one that breaks the promise."""
    start = State(writers=(IDLE,) * writers)
    known, queue = {start}, deque([start])
    while queue:
        state = queue.popleft()
        if lost(state):
            return len(known), state
        for following in steps(state, rules):
            if following not in known:
                known.add(following)
                queue.append(following)
    return len(known), None


@pytest.mark.parametrize("writers", [1, 2, 3, 4])
def test_no_interleaving_leaves_a_committed_change_unseen_by_a_sleeping_reader(writers: int) -> None:
    states, broken = explore(writers, Rules())
    assert broken is None
    assert states > 4**writers  # the model did go somewhere


def test_the_model_reaches_sleep_and_every_way_of_waking() -> None:
    start = State(writers=(IDLE, IDLE))
    known, queue = {start}, deque([start])
    while queue:
        for following in steps(queue.popleft(), Rules()):
            if following not in known:
                known.add(following)
                queue.append(following)
    assert any(s.reader == ASLEEP and s.on_the_way == 2 for s in known)
    assert any(s.reader == ASLEEP and s.arrived for s in known)
    assert any(s.reader == HOT and s.writers == (SHARING, NOTIFYING) for s in known)
    assert any(s.reader == ASLEEP and s.holds and s.writers == (GONE, GONE) and not s.unseen for s in known)
    assert any(s.reader == FORGOTTEN and s.unseen for s in known)  # the read after the grant does find something


@pytest.mark.parametrize(
    "fault",
    [
        Rules(reads_after_grant=False),
        Rules(forgets_before_read=False),
        Rules(forgets_before_waking_read=False),
        Rules(asks_for_lock=False),
        Rules(sleeps_after_denial=True),
        Rules(holds_while_asleep=False),
    ],
    ids=lambda rules: ",".join(n for n in Rules.__dataclass_fields__ if getattr(rules, n) != getattr(Rules(), n)),
)
def test_a_planted_fault_is_found(fault: Rules) -> None:
    broken = next((state for n in (1, 2, 3) if (state := explore(n, fault)[1])), None)
    assert broken is not None


def test_a_try_that_ignored_waiters_would_only_delay_the_sleep() -> None:
    """That a waiter fails the try is how sleep is reached under load; without it nothing is lost."""
    assert explore(3, Rules(waiter_fails_try=False))[1] is None
