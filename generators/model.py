"""The pure event model: a function from a scenario to its events, in order of time."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice

from generators import rhythm
from generators.events import Event
from generators.shop import Shop

EVENTS_PER_DAY = 1600
"""How many events a day of history has, when no number is given."""
SECONDS_BETWEEN_STEPS = 10
"""How long a shopper takes over a step, when there are enough users for that."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What is simulated; equal scenarios give the same events, byte for byte.

    With `history`, `events` of them (1,600 a day unless given) lie in `[start, start + history)`.
    Live events, one every 1 / `rate` seconds, follow: for `duration`; without a `history` until `events`, too;
    without any of the three they never end.
    """

    start: datetime
    seed: int = 1
    rate: float = 50.0
    history: timedelta = timedelta()
    duration: timedelta | None = None
    events: int | None = None
    users: int = 3000
    products: int = 400

    @property
    def live_start(self) -> datetime:
        """When the history is over and the live events begin."""
        return self.start + self.history

    @property
    def past_events(self) -> int:
        """Number of events of the history."""
        if not self.history:
            return 0
        return self.events or max(1, round(self.history / timedelta(days=1) * EVENTS_PER_DAY))

    @property
    def live_events(self) -> int | None:
        """Number of live events, None for no end."""
        lasting = None if self.duration is None else round(self.duration.total_seconds() * self.rate)
        if self.history:
            return lasting or 0
        limits = [limit for limit in (lasting, self.events) if limit is not None]
        return min(limits, default=None)

    @property
    def identity(self) -> str:
        """What ids and all chance are seeded with; how long the live part lasts isn't in it."""
        parts = (self.seed, rhythm.milliseconds(self.start), self.rate, self.history, self.past_events, self.users)
        return "/".join(map(str, (*parts, self.products)))

    @property
    def total(self) -> int | None:
        """Number of all events, None for no end."""
        return None if self.live_events is None else self.past_events + self.live_events


def simulate(scenario: Scenario) -> Iterator[Event]:
    """The scenario's events, in order of their time.

    The three kinds of events are one simulation: for one table's events, filter them.
    """
    start, live = rhythm.milliseconds(scenario.start), rhythm.milliseconds(scenario.live_start)
    shop = Shop(seed=scenario.seed, identity=scenario.identity, users=scenario.users, products=scenario.products)
    if scenario.past_events:
        crowd = _crowd(scenario, scenario.past_events / scenario.history.total_seconds())
        for at in rhythm.history(start, live, scenario.past_events, seed=scenario.seed):
            yield shop.step(at, crowd)
    crowd = _crowd(scenario, scenario.rate)
    for at in islice(rhythm.live(live, scenario.rate), scenario.live_events):
        yield shop.step(at, crowd)


def _crowd(scenario: Scenario, rate: float) -> int:
    """How many sessions are open at a time, so that a shopper takes a step every few seconds."""
    return max(3, min(int(rate * SECONDS_BETWEEN_STEPS), scenario.users // 3))
