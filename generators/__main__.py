"""`python -m generators`: simulated shoppers to Kafka."""

import logging
import re
import signal
import threading
from collections.abc import Container, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from generators.events import Event
from generators.model import Scenario, simulate
from generators.producer import BrokerError, Delivery, produce
from lib.settings import TOPICS, SettingsError, settings

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Kind(StrEnum):
    """What to send."""

    transactions = "transactions"
    views = "views"
    cart = "cart"
    all = "all"


TABLES = {
    Kind.transactions: ["transactions"],
    Kind.views: ["product_view_events"],
    Kind.cart: ["cart_events"],
    Kind.all: list(TOPICS),
}


def length(text: str) -> timedelta:
    """`60s`, `5m`, `2h`, `200d` or `4w` as a length of time."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if not match or not float(match[1]):
        raise typer.BadParameter(f"{text!r} is no length of time; write 60s, 5m, 2h, 200d or 4w")
    try:
        return timedelta(**{UNITS[match[2]]: float(match[1])})
    except OverflowError as error:
        raise typer.BadParameter(f"{text!r} is too long") from error


def instant(text: str) -> datetime:
    """An ISO 8601 instant, UTC unless it says otherwise."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no instant; write it as 2026-11-22T08:00:00Z") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


Rate = Annotated[float, typer.Option(min=0.001, help="Live events a second, all three kinds together.")]
Duration = Annotated[
    timedelta | None, typer.Option(parser=length, metavar="TIME", help="How long to send live events, as 60s.")
]
Seed = Annotated[int, typer.Option(help="Chooses customers and products and, with the start, every event.")]
History = Annotated[
    timedelta | None,
    typer.Option(
        parser=length,
        metavar="TIME",
        help="First send back-dated events of so long, as 200d, up to now, as fast as Kafka takes them.",
    ),
]
Events = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Number of events of the history (1,600 a day by default), or without one, live events to stop after. "
        "All three kinds together.",
    ),
]
Users = Annotated[int, typer.Option(min=1, help="Number of customers.")]
Products = Annotated[int, typer.Option(min=1, help="Number of products.")]
Start = Annotated[
    datetime | None,
    typer.Option(parser=instant, metavar="ISO", help="Time of the first event, instead of now (less the history)."),
]


@app.command()
def main(
    kind: Annotated[Kind, typer.Argument(help="Which part of the simulation to send.")] = Kind.all,
    rate: Rate = 50,
    duration: Duration = None,
    seed: Seed = 1,
    history: History = None,
    events: Events = None,
    users: Users = 3000,
    products: Products = 400,
    start: Start = None,
) -> None:
    """Send simulated shoppers' events to Kafka: 60 % product views, 30 % cart events, 10 % transactions.

    Without --duration, --events and --history it goes on until Ctrl-C. A live event is sent when its time has come.
    Equal arguments, --start included, give equal events. Sent apart, the three kinds are parts of the same simulation
    as together: --rate and --events speak of the whole of it.

    The last line counts what Kafka acknowledged. Exit code 0, after Ctrl-C or SIGTERM as well; 1 if Kafka can't be
    reached or a message failed; 2 for wrong arguments or settings.
    """
    past = history or timedelta()
    try:
        scenario = Scenario(
            start=start or datetime.now(UTC) - past,
            seed=seed,
            rate=rate,
            history=past,
            duration=duration,
            events=events,
            users=users,
            products=products,
        )
        _ = scenario.live_start + (duration or timedelta())
    except OverflowError as error:
        raise typer.BadParameter("that reaches beyond the calendar") from error
    try:
        bootstrap = settings().kafka_bootstrap
    except SettingsError as error:
        _fail(str(error), code=2)
    _quiet_kafka()
    topics = {table: TOPICS[table] for table in TABLES[kind]}
    try:
        receipt = _send(scenario, topics, bootstrap)
    except BrokerError as error:
        _fail(str(error))
    counts = ", ".join(f"{topic} {number}" for topic, number in receipt.acknowledged.items())
    if receipt.failed:
        typer.echo(f"generators: {receipt.failed.total()} messages failed, the first with: {receipt.error}", err=True)
    typer.echo(f"acknowledged: {counts}, total {receipt.acknowledged.total()}")
    raise typer.Exit(1 if receipt.failed else 0)


def share(events: Iterable[Event], tables: Container[str]) -> Iterator[Event]:
    """Those of the events that are for these tables."""
    return (event for event in events if event.table in tables)


def _send(scenario: Scenario, topics: dict[str, str], bootstrap: str) -> Delivery:
    """Send the scenario's events for these topics until they end or a signal comes; a terminal shows a progress bar."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        simulated = progress.track(simulate(scenario), total=scenario.total, description="events")
        return produce(share(simulated, topics), topics, bootstrap=bootstrap, stop=stop)


def _quiet_kafka() -> None:
    """Keep the client's own log off the terminal; what matters is raised."""
    logger = logging.getLogger("kafka")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False


def _fail(message: str, *, code: int = 1) -> NoReturn:
    typer.echo(f"generators: {message}", err=True)
    raise typer.Exit(code)


if __name__ == "__main__":
    app(prog_name="python -m generators")
