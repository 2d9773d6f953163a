"""How often a hot reader reads: seldom enough to cost little, often enough for a commit to arrive soon."""

import pytest

from app.postgres.gate import BRIEF_SECONDS, HOT_SECONDS, LONGEST_SECONDS, PAUSE_SECONDS, Habit, pace


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


@pytest.mark.parametrize(
    ("gap", "awake"), [(0.002, HOT_SECONDS), (0.02, HOT_SECONDS), (0.05, BRIEF_SECONDS), (60, BRIEF_SECONDS)]
)
def test_it_stays_awake_only_where_the_next_commit_is_near(gap: float, awake: float) -> None:
    habit = Habit()
    for n in range(40):
        habit.found(n * gap)
    assert habit.seconds == awake


def test_after_a_long_quiet_a_burst_keeps_it_awake_within_a_few_commits() -> None:
    habit = Habit()
    for n in range(10):
        habit.found(n * 60.0)
    assert habit.seconds == BRIEF_SECONDS
    for n in range(20):
        habit.found(600 + n * 0.002)
    assert habit.seconds == HOT_SECONDS
