"""Attempts become rarer up to a bound, and those of two servers do not fall together."""

from itertools import islice

from app.stream.backoff import FIRST_SECONDS, LAST_SECONDS, backoff, jittered


def test_pauses_double_up_to_a_bound_and_are_each_a_little_shorter_by_chance() -> None:
    assert (FIRST_SECONDS, LAST_SECONDS) == (0.1, 10.0)
    for n, pause in enumerate(islice(backoff(), 20)):
        most = min(FIRST_SECONDS * 2**n, LAST_SECONDS)
        assert most / 2 <= pause <= most
    assert list(islice(backoff(), 20)) != list(islice(backoff(), 20))


def test_a_jittered_time_is_half_of_it_to_all_of_it() -> None:
    found = [jittered(8.0) for _ in range(100)]
    assert all(4.0 <= seconds <= 8.0 for seconds in found)
    assert len(set(found)) > 1
