"""Medians and their spread. Pure: what a machine's noise leaves of a handful of samples.

Invariant: no mean anywhere; one disturbed window moves a mean, and hardly a median.
"""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Spread(NamedTuple):
    """The median, and between what the samples lie."""

    median: float
    low: float
    high: float
    size: int


def spread(samples: Sequence[float]) -> Spread:
    return Spread(statistics.median(samples), min(samples), max(samples), len(samples))


def interval(samples: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """An interval for the median that needs no assumption of the samples' distribution: two order statistics.

    Of too few samples for `confidence` it is their whole range.
    """
    ordered, n = sorted(samples), len(samples)
    outside, rank = 0.0, 0
    # The median lies below the k-th of n samples with the probability of fewer than k heads in n throws.
    while rank < n // 2:
        outside += 2 * math.comb(n, rank) / 2**n
        if outside > 1 - confidence:
            break
        rank += 1
    rank = max(rank, 1)
    return ordered[rank - 1], ordered[n - rank]


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Pair by pair: what both windows of a pair have suffered falls out."""
    return [n / d for n, d in zip(numerators, denominators, strict=True)]


def number(value: float) -> str:
    """Three digits that count, and no more: the rest is noise."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "–"
    if abs(value) >= 100:
        return f"{round(value):,}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def with_range(samples: Sequence[float]) -> str:
    """ "median (low–high)", or the sample alone."""
    s = spread(samples)
    return number(s.median) if s.size == 1 else f"{number(s.median)} ({number(s.low)}–{number(s.high)})"
