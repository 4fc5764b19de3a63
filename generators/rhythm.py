"""When events happen: their instants, as whole milliseconds since 1970 in UTC."""

import math
import random
from bisect import bisect_right
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import accumulate, count, pairwise

HOUR = 3_600_000
YEARLY_GROWTH = 1.5
BY_HOUR = (38, 28, 22, 18, 17, 20, 30, 44, 58, 70, 80, 86, 92, 90, 86, 88, 94, 104, 118, 130, 134, 122, 92, 60)
BY_WEEKDAY = (0.95, 0.92, 0.94, 0.98, 1.06, 1.18, 1.12)


def milliseconds(instant: datetime) -> int:
    """An instant with a time zone, as whole milliseconds since 1970."""
    return (instant - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def live(start: int, rate: float) -> Iterator[int]:
    """Event i at start + i / rate, without end."""
    return (start + int(i * 1000 / rate) for i in count())


def history(start: int, end: int, events: int, *, seed: int) -> Iterator[int]:
    """So many instants in `[start, end)`, in order, denser at busy hours and, as the business grows, from year to year.

    How dense follows from the calendar and the seed: hour, weekday, growth, and how good a day is.
    """
    edges = [start, *range(start - start % HOUR + HOUR, end, HOUR), end]
    spans = list(pairwise(edges))
    moods: dict[int, float] = {}
    done = [0.0, *accumulate((to - at) * _demand(at, seed, moods) for at, to in spans)]
    rng = random.Random(f"{seed}/{start}/{end}/{events}")
    for i in range(events):
        # one instant in each of `events` equal shares of the demand: in order without sorting
        sought = done[-1] * (i + rng.random()) / events
        hour = min(bisect_right(done, sought), len(spans)) - 1
        at, to = spans[hour]
        share = (sought - done[hour]) / (done[hour + 1] - done[hour])
        yield min(at + int(share * (to - at)), to - 1)


def _demand(at: int, seed: int, moods: dict[int, float]) -> float:
    days, hour = divmod(at // HOUR, 24)
    if days not in moods:
        moods[days] = random.Random(f"{seed}/mood/{days}").lognormvariate(0, 0.08)
    # 1970 began on a Thursday; growth counts from 2026, to stay among small numbers
    growth = math.pow(YEARLY_GROWTH, (days - 20454) / 365)
    return BY_HOUR[hour] * BY_WEEKDAY[(days + 3) % 7] * growth * moods[days]
