"""The limits by time against a bucket of tokens that is counted the naive way, and the memory that they keep."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from app.core.gcra import MS, SECOND, Gcra, Limit, in_ms
from app.core.tally import Tally

LIMITS = st.builds(Limit, st.integers(1, 3000), st.integers(1, 50))


class Bucket:
    """Full at first; a token falls into it every `step`, and one that finds it full is lost."""

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.tokens = Fraction(limit.burst)
        self.at = 0

    def take(self, now: int) -> int:
        self.tokens = min(Fraction(self.limit.burst), self.tokens + Fraction(now - self.at, self.limit.step))
        self.at = now
        if self.tokens >= 1:
            self.tokens -= 1
            return 0
        return int((1 - self.tokens) * self.limit.step)


@given(LIMITS, st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 70 * SECOND)), max_size=80), st.data())
def test_each_key_is_judged_as_a_bucket_of_tokens_judges_it(
    limit: Limit, steps: list[tuple[str, int]], data: st.DataObject
) -> None:
    limits, buckets, now = Gcra(limit), {key: Bucket(limit) for key in "abc"}, 0
    for key, later in steps:
        now += data.draw(st.sampled_from([0, later, later % limit.step, limit.step]))
        wait = limits.take(key, now)
        assert wait == buckets[key].take(now)
        if wait:
            assert limits.take(key, now + wait - 1) == 1
            buckets[key].take(now + wait - 1)
            assert limits.take(key, now + wait) == buckets[key].take(now + wait) == 0
            now += wait


def test_a_hundred_at_once_pass_and_the_next_waits_for_its_turn() -> None:
    limits = Gcra(Limit(100, 100))
    waits = [limits.take("42", SECOND) for _ in range(105)]
    assert [in_ms(wait) for wait in waits] == [0] * 100 + [600] * 5
    assert limits.take("43", SECOND) == 0
    assert limits.take("42", SECOND + 600 * MS) == 0


@given(LIMITS, st.lists(st.tuples(st.integers(0, 1000), st.integers(0, SECOND)), max_size=200))
def test_what_is_kept_is_of_keys_that_were_there_within_the_window_alone(
    limit: Limit, steps: list[tuple[int, int]]
) -> None:
    limits, seen, now = Gcra(limit), dict[int, int](), 0
    for key, later in steps:
        now += later
        if not limits.take(key, now):
            seen[key] = now
    now += limit.window + 1
    for n in range(len(seen)):  # as many takes of others remove all that is idle
        limits.take(("other", n), now)
    assert not any(key in limits._due for key in seen)


def test_users_who_come_once_leave_nothing_behind() -> None:
    limits = Gcra(Limit(100, 100))
    most = 0
    for n in range(100_000):
        limits.take(n, n * SECOND)  # one new user each second
        most = max(most, len(limits))
    assert most <= 3
    limits.forget(99_999)
    assert len(limits) <= 2


def test_a_tally_counts_up_to_its_limit_and_forgets_who_has_none() -> None:
    tally = Tally(2)
    assert [tally.enter("a"), tally.enter("a"), tally.enter("a"), tally.enter("b")] == [True, True, False, True]
    tally.leave("a")
    assert tally.enter("a")
    for key in "aab":
        tally.leave(key)
    assert len(tally) == 0
