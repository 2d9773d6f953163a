"""How often a hot reader reads: seldom enough to cost little, often enough for a commit to arrive soon."""

import pytest

from app.postgres.gate import LONGEST_SECONDS, PAUSE_SECONDS, Habit, pace


@pytest.mark.parametrize(
    ("rate", "pause"), [(20, 0.002), (200, 0.002), (1_000, 0.004), (2_000, 0.008), (8_000, 0.032), (50_000, 0.040)]
)
def test_at_a_steady_rate_the_pause_settles_in_proportion_to_it(rate: int, pause: float) -> None:
    seconds = PAUSE_SECONDS
    for _ in range(200):
        seconds = pace(round(rate * seconds))
    assert seconds == pytest.approx(pause, rel=0.35)


def test_a_pause_is_never_longer_for_fewer_commits_and_always_bounded() -> None:
    pauses = [pace(commits) for commits in range(2_000)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (PAUSE_SECONDS, LONGEST_SECONDS)


@pytest.mark.parametrize(("gap", "rare"), [(0.002, False), (0.02, False), (0.05, True), (60, True)])
def test_it_sleeps_between_commits_that_are_rare(gap: float, rare: bool) -> None:
    habit = Habit()
    for n in range(40):
        habit.learn(1, n * gap)
    assert habit.rare is rare


def test_after_a_long_quiet_a_burst_wakes_it_within_a_few_commits() -> None:
    habit = Habit()
    for n in range(10):
        habit.learn(1, n * 60.0)
    assert habit.rare
    for n in range(20):
        habit.learn(1, 600 + n * 0.002)
    assert not habit.rare


def test_commits_that_are_found_together_are_near_each_other() -> None:
    habit = Habit()
    for n in range(40):
        habit.learn(8, n * 0.1)
    assert not habit.rare
