"""Messages that once broke something, each with what it broke: they are sent with every run."""

from dataclasses import dataclass

from tests.fuzz.events import Message


@dataclass(frozen=True)
class Case:
    """Messages that stay a test, and what they once broke."""

    name: str
    broke: str
    messages: tuple[Message, ...]


DAY = "2026-03-01T12:00:00Z"


def order(key: str, lines: str, more: str = "", user: str = "corpus") -> Message:
    """A transaction; `lines` and `more` are JSON."""
    text = (
        f'{{"transaction_id": "{key}", "user_id": "{user}", "transaction_timestamp": "{DAY}", "total_amount": 1.5'
        f', "products": [{lines}]{more}}}'
    )
    return "transactions", text.encode()


def line(more: str = "", quantity: str = "2", price: str = "0.75") -> str:
    """An order line in JSON."""
    return f'{{"product_id": "corpus", "quantity": {quantity}, "price": {price}{more}}}'


def view(key: str, more: str = "", time: str = DAY) -> Message:
    """A product view; `more` is JSON."""
    text = (
        f'{{"event_id": "{key}", "event_type": "view", "user_id": "corpus", "product_id": "corpus"'
        f', "timestamp": "{time}"{more}}}'
    )
    return "product_view_events", text.encode()


def cart(key: str, more: str = "") -> Message:
    """A cart event; `more` is JSON."""
    return "cart_events", (view(key, more)[1] or b"").replace(b'"view"', b'"add"')


def of_each(key: str, more: str) -> tuple[Message, ...]:
    """An event of each kind with the same unknown fields."""
    return order(f"{key} t", line(), more), view(f"{key} v", more), cart(f"{key} c", more)


CASES = (
    Case(
        "a field called like an internal column of the batch",
        "`place` was the name of two columns of the batch: the saver failed with ArrowInvalid, for ever.",
        of_each("place", ', "place": "homepage"'),
    ),
    Case(
        "a field called like an alias of a rule",
        "`select *, … as happened_at` was ambiguous: each load of the fact failed, for ever.",
        of_each("happened", ', "happened_at": 1'),
    ),
    Case(
        "a field called like the alias of the order lines",
        "The column transactions.line came before the alias `line` in `line ->> 'quantity'`: dim_customers failed, for ever.",
        (order("line t", line(), ', "line": "first"'),),
    ),
    Case(
        "two dear orders of one customer",
        "Each line fits numeric(18, 2), their sum didn't: dim_customers failed, for ever.",
        tuple(order(f"dear {n}", line(quantity="100", price="90000000000000"), user="rich") for n in (1, 2)),
    ),
    Case(
        "an order line with a number of 1,001 decimals",
        "Spark's from_json gave NULL for all lines, the order vanished, and rows_of_the_ledger ended each load of fact_sales.",
        (order("long number", line(f', "x": 0.{"3" * 1001}')),),
    ),
    Case(
        "an order line with a name of 50,001 characters",
        "As with the long number: another limit of the same reader.",
        (order("long name", line(f', "{"n" * 50_001}": 1')),),
    ),
    Case(
        "a time with a character too many",
        "CPython's fromisoformat skips a character before the offset, so that garbage was stored as a time.",
        tuple(
            view(f"garbage {n}", time=f"2026-03-01T12:00:00{more}") for n, more in enumerate(("5Z", "xZ", " Z", ".Z"))
        ),
    ),
    Case(
        "poison in a value that a later one replaces",
        "The typed decoder doesn't see it, the other one does: such a message may be stored or dead, but right.",
        (
            ("transactions", (order("replaced 1", line())[1] or b"").replace(b"{", b'{"products": 1e400, ', 1)),
            (
                "transactions",
                (order("replaced 2", line())[1] or b"").replace(b"{", b'{"products": "\xed\xa0\x80", ', 1),
            ),
        ),
    ),
)
