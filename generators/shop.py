"""The shop: which shopper takes the next step, and which event that makes.

Sessions wait in a queue for each kind of event, by their next step. At each instant, the kind that is furthest behind its
share is served, and of its queue the session that has waited longest. So the shares hold from the first event on, and
still every event is a step of somebody's visit.
"""

import random
import uuid
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec

from generators import population
from generators.events import SHARES, CartEvent, Event, Line, Transaction, View

VIEWS, CART, TRANSACTIONS = SHARES
TABLES = {"view": VIEWS, "add": CART, "remove": CART, "update": CART, "checkout": CART, "buy": TRANSACTIONS}
"""The table that each step of a visit writes to."""
MILLISECONDS_A_DAY = 86_400_000
EPOCH = datetime(1970, 1, 1).toordinal()
STILL_TO_COME = 0.35
"""How many purchases, or cart events, beyond their share an open session has ahead of it: visits end with them."""


@dataclass(slots=True)
class Session:
    """One visit of a user: the steps that are planned, what has been looked at, what is in the cart."""

    session_id: str
    user: population.User
    steps: deque[str]
    interest: str = ""
    seen: list[int] = field(default_factory=list)
    cart: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Quantity and price in cents of each product number."""


class Shop:
    """The state of a simulation; all chance comes from one generator, seeded with `identity`."""

    def __init__(self, *, seed: int, identity: str, users: int, products: int) -> None:
        self.rng = random.Random(identity)
        self.users = population.customers(seed, users)
        self.products = population.articles(seed, products)
        self.waiting: dict[str, deque[Session]] = {table: deque() for table in SHARES}
        self.open = 0
        self.done = dict.fromkeys(SHARES, 0)
        self.planned = dict.fromkeys(SHARES, 0)
        self.day_number = -1
        self.second = -1
        self.encode = msgspec.json.Encoder().encode

    def step(self, at: int, crowd: int) -> Event:
        """Let one shopper take one step at this instant, with about `crowd` sessions open at a time."""
        self._look_at_the_clock(at)
        table = self._due()
        queue = self.waiting[table]
        if table == VIEWS and (not queue or (self.open < crowd and self.rng.random() < 0.5)):
            session = self._enter()
        else:
            session = queue.popleft()
        self.done[table] += 1
        step = session.steps.popleft()
        if step == "view":
            message: View | CartEvent | Transaction = self._view(session)
        elif step == "buy":
            message = self._buy(session)
        else:
            message = self._handle_cart(session, step)
        if session.steps:
            self.waiting[TABLES[session.steps[0]]].append(session)
        else:
            self.open -= 1
        return Event(table, at, self.encode(message))

    def _look_at_the_clock(self, at: int) -> None:
        if at // MILLISECONDS_A_DAY != self.day_number:
            self.day_number = at // MILLISECONDS_A_DAY
            self.day = population.open_shop(EPOCH + self.day_number, self.users, self.products)
        if at // 1000 != self.second:
            self.second = at // 1000
            self.clock = datetime.fromtimestamp(self.second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        self.timestamp = f"{self.clock}.{at % 1000:03d}Z"

    def _due(self) -> str:
        """The kind furthest behind its share for which a session waits; views need none, since a new one can begin."""
        number = sum(self.done.values()) + 1
        ahead = sorted((done - SHARES[table] * number, table) for table, done in self.done.items())
        return next(table for _, table in ahead if table == VIEWS or self.waiting[table])

    def _enter(self) -> Session:
        user = self.rng.choices(self.day.users, cum_weights=self.day.user_weights)[0]
        steps = self._plan(user)
        for step in steps:
            self.planned[TABLES[step]] += 1
        self.open += 1
        return Session(f"session_{self.rng.getrandbits(48):012x}", user, deque(steps))

    def _plan(self, user: population.User) -> list[str]:
        """The steps of a visit; a purchase is the likelier, the more of them are missing among the steps planned so far."""
        rng = self.rng
        total = sum(self.planned.values())
        short = {
            table: SHARES[table] * total + STILL_TO_COME * self.open - self.planned[table]
            for table in (CART, TRANSACTIONS)
        }
        if rng.random() < max(0.02, 0.4 * user.buying + 0.1 * short[TRANSACTIONS]):
            steps = []
            for _ in range(rng.choices((1, 2, 3, 4), (76, 17, 5, 2))[0]):
                steps += ["view"] * rng.choices((1, 2, 3, 4), (40, 35, 15, 10))[0] + ["add"]
            if rng.random() < 0.15 + 0.05 * short[CART]:
                steps.append(rng.choice(("update", "remove")))
            return [*steps, *["view"] * (rng.random() < 0.3), "checkout", "buy"]
        steps = ["view"] * rng.choices((1, 2, 3, 4, 6), (45, 28, 14, 8, 5))[0]
        if rng.random() < 0.2 + 0.1 * short[CART]:
            steps += ["add", *["view"] * rng.choice((0, 1, 2)), *["update"] * (rng.random() < 0.2)]
            steps += ["remove"] * (rng.random() < 0.3)
        return steps

    def _view(self, session: Session) -> View:
        shelves = self.day.shelves
        shelf = session.interest if self.rng.random() < 0.6 else ""
        numbers, weights = shelves.get(shelf, shelves[""])
        number = self.rng.choices(numbers, cum_weights=weights)[0]
        session.seen.append(number)
        session.interest = session.interest or self.day.categories[number]
        return View(
            event_id=self._uuid(),
            event_type="view",
            user_id=session.user.user_id,
            product_id=self.products[number].product_id,
            session_id=session.session_id,
            timestamp=self.timestamp,
            country=session.user.country,
            category=self.day.categories[number],
            view_duration=1 + min(599, int(self.rng.lognormvariate(2.6, 0.9))),
        )

    def _handle_cart(self, session: Session, step: str) -> CartEvent:
        event_type, number, quantity, cents = self._change_cart(session, step)
        return CartEvent(
            event_id=self._uuid(),
            event_type=event_type,
            user_id=session.user.user_id,
            product_id=self.products[number].product_id,
            session_id=session.session_id,
            timestamp=self.timestamp,
            country=session.user.country,
            category=self.day.categories[number],
            quantity=quantity,
            price=cents / 100,
        )

    def _change_cart(self, session: Session, step: str) -> tuple[str, int, int, int]:
        """Do the step, and return the event's type, the product number, the quantity and the price in cents."""
        rng, cart = self.rng, session.cart
        if step == "add":
            number = max(session.seen[-4:], key=lambda n: self.products[n].appeal * rng.random())
            if number not in cart:
                odds = (55, 25, 12, 8) if self.day.categories[number] == "Grocery" else (80, 14, 4, 2)
                cart[number] = (rng.choices((1, 2, 3, 4), odds)[0], self.day.cents[number])
                return step, number, *cart[number]
            step = "update"
        elif step == "remove" and (len(cart) > 1 or not session.steps):  # a purchase needs a line
            number = rng.choice(list(cart))
            return step, number, *cart.pop(number)
        else:
            number = max(cart, key=lambda n: cart[n][0] * cart[n][1])
        quantity, cents = cart[number]
        if step == "checkout":
            return step, number, quantity, cents
        fewer = quantity > 2 or (quantity == 2 and rng.random() < 0.5)
        cart[number] = (quantity - 1 if fewer else quantity + 1, cents)
        return "update", number, *cart[number]

    def _buy(self, session: Session) -> Transaction:
        return Transaction(
            transaction_id=self._uuid(),
            user_id=session.user.user_id,
            products=[
                Line(self.products[number].product_id, quantity, cents / 100, self.day.categories[number])
                for number, (quantity, cents) in session.cart.items()
            ],
            total_amount=sum(quantity * cents for quantity, cents in session.cart.values()) / 100,
            country=session.user.country,
            transaction_timestamp=self.timestamp,
        )

    def _uuid(self) -> str:
        return str(uuid.UUID(int=self.rng.getrandbits(128), version=4))
