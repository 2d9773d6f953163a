"""How often a hot reader reads: seldom enough to cost little, often enough for a commit to arrive soon."""

import pytest

from app.postgres.gate import LONGEST_SECONDS, PAUSE_SECONDS, pace


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
