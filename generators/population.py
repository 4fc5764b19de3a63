"""Customers and products: they follow from the seed and the calendar day alone, not from when a run began.

So live events go on with the customers, prices and categories that the history ended with.
"""

import math
import random
from dataclasses import dataclass
from datetime import date
from itertools import accumulate
from typing import NamedTuple


class Category(NamedTuple):
    """What a category's prices and sales are like."""

    median_cents: int
    popularity: float
    best_day: int
    """The day of the year on which it sells best."""
    akin: str
    """The category that some of its products move to, and back."""


CATEGORIES = {
    "Electronics": Category(7600, 1.0, 340, "Toys"),
    "Fashion": Category(4200, 1.3, 110, "Sports"),
    "Home": Category(4800, 1.0, 290, "Electronics"),
    "Beauty": Category(2800, 0.9, 45, "Grocery"),
    "Sports": Category(5200, 0.8, 170, "Fashion"),
    "Toys": Category(2900, 0.7, 345, "Books"),
    "Books": Category(2100, 0.8, 320, "Toys"),
    "Grocery": Category(1700, 1.0, 200, "Home"),
}
COUNTRIES = (
    "USA",
    "Germany",
    "UK",
    "France",
    "Canada",
    "Netherlands",
    "Spain",
    "Japan",
    "Australia",
    "Brazil",
    "Poland",
    "Sweden",
)
CYCLE = 400
"""The length of a customer's cycle: for some days the customer shops here, then stays away until the next cycle."""
MOVERS = 0.08
"""The share of products that move to another category from time to time."""


@dataclass(frozen=True, slots=True)
class User:
    """A customer: the country, how often they visit and buy, and on which days of their cycle they shop here."""

    user_id: str
    country: str
    activity: float
    buying: float
    first_day: int
    days: int

    def is_active(self, day: int) -> bool:
        """Whether the customer shops here on this day (an ordinal of `datetime.date`)."""
        return (day - self.first_day) % CYCLE < self.days


@dataclass(frozen=True, slots=True)
class Product:
    """A product; its category and price on a day follow from that day alone."""

    product_id: str
    home: str
    other: str
    base_cents: int
    popularity: float
    appeal: float
    phase: float
    stay: int
    """Days under one category before the product moves to the other; 0 for most, which never move."""

    def category(self, day: int) -> str:
        """The category on this day (an ordinal of `datetime.date`)."""
        if not self.stay:
            return self.home
        moves = int(day + self.phase * self.stay) // self.stay
        return self.other if moves % 2 else self.home

    def cents(self, day: int) -> int:
        """The price in cents on this day: it drifts by the week around a rise of 3 % a year."""
        week = day // 7
        drift = 1 + 0.08 * math.sin(week / 5 + self.phase * math.tau)
        inflation = math.pow(1.03, (day - date(2026, 1, 1).toordinal()) / 365)
        return max(99, round(self.base_cents * drift * inflation))


def customers(seed: int, count: int) -> list[User]:
    """The customers `user_1` to `user_<count>` of this seed."""
    rng = random.Random(f"{seed}/customers")
    by_country = list(accumulate(1 / rank for rank in range(1, len(COUNTRIES) + 1)))
    return [
        User(
            user_id=f"user_{number}",
            country=rng.choices(COUNTRIES, cum_weights=by_country)[0],
            activity=min(12, rng.lognormvariate(0, 1.1)),
            buying=rng.uniform(0.4, 1.6),
            first_day=rng.randrange(CYCLE),
            days=CYCLE if rng.random() < 0.35 else rng.randint(5, 220),
        )
        for number in range(1, count + 1)
    ]


def articles(seed: int, count: int) -> list[Product]:
    """The products `prod_1` to `prod_<count>` of this seed, popular by Zipf's law."""
    rng = random.Random(f"{seed}/articles")
    names = list(CATEGORIES)
    ranks = rng.sample(range(count), count)
    movers = set(rng.sample(range(count), math.ceil(count * MOVERS)))
    products = []
    for number, rank in enumerate(ranks):
        home = rng.choice(names)
        products.append(
            Product(
                product_id=f"prod_{number + 1}",
                home=home,
                other=CATEGORIES[home].akin,
                base_cents=round(CATEGORIES[home].median_cents * rng.lognormvariate(0, 0.5)),
                popularity=CATEGORIES[home].popularity / (rank + 3) ** 0.9,
                appeal=rng.uniform(0.2, 1),
                phase=rng.random(),
                stay=rng.randint(45, 120) if number in movers else 0,
            )
        )
    return products


@dataclass(frozen=True, slots=True)
class Day:
    """The shop on one UTC day: who comes, and what each product costs and counts as."""

    users: list[User]
    user_weights: list[float]
    shelves: dict[str, tuple[list[int], list[float]]]
    """Numbers of the products of a category with their cumulated popularity; the whole shop under the empty name."""
    categories: list[str]
    cents: list[int]


def open_shop(day: int, users: list[User], products: list[Product]) -> Day:
    """The shop on this day (an ordinal of `datetime.date`)."""
    of_year = date.fromordinal(day).timetuple().tm_yday
    categories = [product.category(day) for product in products]
    season = {
        name: 1 + 0.4 * math.cos((of_year - category.best_day) / 365 * math.tau)
        for name, category in CATEGORIES.items()
    }
    weights = [product.popularity * season[category] for product, category in zip(products, categories, strict=True)]
    numbers: dict[str, list[int]] = {"": list(range(len(products)))}
    for number, category in enumerate(categories):
        numbers.setdefault(category, []).append(number)
    active = [user for user in users if user.is_active(day)] or users
    return Day(
        users=active,
        user_weights=list(accumulate(user.activity for user in active)),
        shelves={name: (those, list(accumulate(weights[n] for n in those))) for name, those in numbers.items()},
        categories=categories,
        cents=[product.cents(day) for product in products],
    )
