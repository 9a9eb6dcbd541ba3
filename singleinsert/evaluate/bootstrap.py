"""Intervals by resampling concepts: pictures of one concept are not independent, concepts are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 5000
LEVEL = 0.95
FEWEST = 3
"""Values under which an interval says nothing: of two, each resampling gives one of three means."""


@dataclass(frozen=True)
class Interval:
    """A mean over concepts, and its bootstrap percentile interval; both ends are the mean where there is one value."""

    mean: float
    low: float
    high: float
    count: int

    @property
    def ends(self) -> str:
        """ "0.101 to 0.202"; "" of too few values."""
        return f"{self.low:.3f} to {self.high:.3f}" if self.is_told else ""

    @property
    def is_told(self) -> bool:
        """Are there values enough for the interval to say something?"""
        return self.count >= FEWEST

    @property
    def side(self) -> int:
        """Of a difference: +1 or -1 where it is beyond chance, 0 where it is not or the values are too few to say."""
        return ((self.low > 0) - (self.high < 0)) if self.is_told else 0

    @property
    def signed(self) -> str:
        """Of a difference: "+0.101 (-0.020 to +0.202)"; of too few values the mean alone."""
        return f"{self.mean:+.3f}" + (f" ({self.low:+.3f} to {self.high:+.3f})" if self.is_told else "")


def bootstrap(values: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES, level: float = LEVEL) -> Interval:
    """The mean of one value per concept with its percentile interval (Efron 1979), from a generator of ``seed``.

    Raises:
        ValueError: no values.
    """
    data = np.asarray(values, dtype=np.float64)
    if not len(data):
        raise ValueError("no values to average")
    drawn = np.random.default_rng(seed).integers(0, len(data), (resamples, len(data)))
    means = data[drawn].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(data.mean()), float(low), float(high), len(data))


def paired(a: Sequence[float], b: Sequence[float], **options: float) -> Interval:
    """The mean of ``a - b`` over the same concepts: it differs from 0 where the interval does not hold 0."""
    if len(a) != len(b):
        raise ValueError(f"{len(a)} values and {len(b)} do not belong to the same concepts")
    return bootstrap(np.subtract(a, b).tolist(), **options)  # type: ignore[arg-type]


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other is better than in both (more is better), the leftmost first."""
    front = []
    for i, (x, y) in enumerate(points):
        beaten = any((u >= x and v >= y) and (u > x or v > y) for j, (u, v) in enumerate(points) if j != i)
        if not beaten:
            front.append(i)
    return sorted(front, key=lambda i: points[i])
