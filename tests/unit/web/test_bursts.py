"""The same bytes to many real sockets, by a `send` each and by io_uring: what arrives, and what is said not to have."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.audience import Burst, one_by_one
from app.web import uring
from app.web.uring import ENTRIES, FEW, UringSender

OPEN, CLOSED, FULL, GONE = "open", "closed", "full", "gone"


@pytest.fixture(scope="module")
def ring() -> UringSender:
    try:
        return UringSender()
    except OSError as error:
        pytest.skip(f"the kernel has no io_uring for us: {error}")


@pytest.fixture(scope="module")
def small(ring: UringSender) -> UringSender:
    """One that is gone round again and again."""
    return UringSender(8)


@pytest.fixture(params=["one by one", "io_uring"])
def burst(request: pytest.FixtureRequest) -> Burst:
    if request.param == "one by one":
        return one_by_one
    made: UringSender = request.getfixturevalue("ring")
    return made.burst


class Pairs:
    """Connected sockets in chosen states, and what their peers have been sent before."""

    def __init__(self, states: list[str]) -> None:
        self.states = states
        self.lines: list[socket.socket] = []
        self.peers: list[socket.socket] = []
        self.before: list[bytes] = []
        for state in states:
            line, peer = socket.socketpair()
            line.setblocking(False)
            peer.setblocking(False)
            before = b""
            if state == FULL:
                with suppress(BlockingIOError):
                    while True:
                        before += b"." * line.send(b"." * 65536)
            elif state == CLOSED:
                line.close()
            elif state == GONE:
                peer.close()
            self.lines.append(line)
            self.peers.append(peer)
            self.before.append(before)

    def got(self, n: int) -> bytes:
        """All that has arrived at a peer since."""
        found = bytearray()
        with suppress(BlockingIOError):
            while data := self.peers[n].recv(1 << 20):
                found += data
        return bytes(found[len(self.before[n]) :])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each in (*self.lines, *self.peers):
            each.close()


def judge(pairs: Pairs, burst: Burst, data: bytes) -> None:
    short = dict(burst(pairs.lines, data))
    for n, (line, state) in enumerate(zip(pairs.lines, pairs.states, strict=True)):
        sent = short.get(line, len(data))
        assert sent < len(data) or line not in short
        if state in (CLOSED, GONE):
            assert sent == 0
        else:
            assert pairs.got(n) == data[:sent]
            assert state is not FULL or sent < len(data)


@pytest.mark.parametrize("count", [1, FEW - 1, FEW, 300])
def test_each_gets_the_bytes_and_who_does_not_is_named(burst: Burst, count: int) -> None:
    with Pairs([(OPEN, CLOSED, FULL, OPEN, GONE)[n % 5] for n in range(count)]) as pairs:
        judge(pairs, burst, b"x" * 1000)


def test_what_the_kernel_takes_in_part_is_counted(burst: Burst) -> None:
    with Pairs([OPEN] * 40) as pairs:
        judge(pairs, burst, os.urandom(8 << 20))


def test_more_than_the_ring_holds_and_round_it_many_times(ring: UringSender, small: UringSender) -> None:
    with Pairs([OPEN] * 50) as pairs:
        for n in range(40):
            judge(pairs, small.burst, b"%d," % n)
    with Pairs([OPEN, GONE] * (ENTRIES // 4 + 3)) as pairs:
        for n in range(9):
            judge(pairs, ring.burst, b"%d," % n)


@settings(max_examples=60)
@given(
    rounds=st.lists(
        st.tuples(st.lists(st.sampled_from([OPEN, OPEN, OPEN, CLOSED, FULL, GONE]), min_size=FEW, max_size=70),
                  st.integers(1, 100_000)),
        max_size=4,
    )
)  # fmt: skip
def test_whatever_the_states_both_ways_say_what_happened(
    ring: UringSender, small: UringSender, rounds: list[tuple[list[str], int]]
) -> None:
    for states, size in rounds:
        for burst in (one_by_one, ring.burst, small.burst):
            with Pairs(states) as pairs:
                judge(pairs, burst, os.urandom(size))


def test_an_old_number_is_not_a_strangers(burst: Burst) -> None:
    """A socket closed between two bursts, whose file descriptor another has by now."""
    with Pairs([OPEN] * 40) as pairs:
        number = pairs.lines[7].fileno()
        pairs.lines[7].close()
        stranger, other = socket.socketpair()
        with stranger, other:
            if stranger.fileno() != number:
                os.dup2(stranger.fileno(), number)
            other.setblocking(False)
            assert [line.fileno() for line, _ in burst(pairs.lines, b"secret")] == [-1]
            with pytest.raises(BlockingIOError):
                other.recv(10)


@pytest.fixture
def failing(ring: UringSender, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Errors that the next calls of io_uring_enter come back with, before the kernel has done anything."""
    errors: list[int] = []
    system = UringSender._system

    def fail(self: UringSender, number: int, *arguments: object) -> int:
        if number == uring.ENTER and errors:
            raise OSError(errors.pop(), "planted")
        return system(self, number, *arguments)

    monkeypatch.setattr(UringSender, "_system", fail)
    yield errors
    assert not errors


def test_an_interrupted_call_is_made_again(failing: list[int]) -> None:
    failing += [errno.EINTR, errno.EAGAIN, errno.EINTR]
    ring = UringSender()
    with Pairs([OPEN] * 40) as pairs:
        judge(pairs, ring.burst, b"x")


def test_a_ring_that_fails_says_what_was_not_sent_and_is_not_used_again(failing: list[int]) -> None:
    failing.append(errno.EINVAL)
    ring = UringSender()
    with Pairs([OPEN] * 40) as pairs:
        assert ring.burst(pairs.lines, b"lost") == [(line, 0) for line in pairs.lines]
        judge(pairs, ring.burst, b"x")  # by a send each


def test_an_exception_in_the_midst_leaves_nothing_behind(ring: UringSender, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: UringSender, number: int, *arguments: object) -> int:
        raise KeyboardInterrupt

    other = UringSender()
    with Pairs([OPEN] * 40) as pairs:
        with monkeypatch.context() as patch:
            patch.setattr(UringSender, "_system", interrupt)
            with pytest.raises(KeyboardInterrupt):
                other.burst(pairs.lines, b"one")
        judge(pairs, other.burst, b"two")


def test_without_io_uring_there_is_an_error_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uring, "SETUP", 4095)  # no system call
    with pytest.raises(OSError, match="Function not implemented"):
        UringSender()
