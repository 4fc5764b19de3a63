"""`make demo`: the whole line on real parts, in named phases, from a believable history to reports."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.request import urlopen

from psycopg2 import sql
from tenacity import RetryError, Retrying, retry_if_exception_type, retry_if_result, stop_after_delay, wait_fixed

from lib import migrate, schemas, servers
from lib.ledger.offsets import backlog
from lib.settings import ROOT, TOPICS, Settings, settings
from lib.stack import lifecycle

HISTORY_DAYS = 200
LIVE_SECONDS = 60
DRAIN_SECONDS = 180
API_SECONDS = 60

TABLES = {
    "realtime": tuple(TOPICS),
    "warehouse": (
        *("dim_date", "dim_geography", "dim_products", "dim_customers"),
        *("fact_sales", "fact_product_views", "fact_cart_events"),
        *("product_performance", "customer_segments", "rfm_analysis", "sales_trends"),
    ),
}


class DemoError(Exception):
    """A phase of the demo failed; the message says which, and where to look."""


def main() -> None:
    """Run the phases; an error is one message and exit code 1, and the stack stays up to be looked at."""
    started = time.monotonic()
    try:
        _run(settings(), started)
    except (DemoError, lifecycle.StackError, migrate.MigrationError, ValueError) as error:
        sys.exit(f"globalmart: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def _run(config: Settings, started: float) -> None:
    with _phase(started, "start Kafka, two PostgreSQL servers and two Spark servers", 25):
        lifecycle.up(config)
    history = config.data_dir / "demo.json"
    if _is_done(history):
        print("the history is there already and stays; this demo adds a minute of live events")
    else:
        with _phase(started, f"send {HISTORY_DAYS} days of history to Kafka", 35):
            _send_history(history)
        with _phase(started, "store the history: three saver notebooks, until Kafka is drained", 40):
            _schedule("run", "stream")
        _mark_done(history)
    with _phase(
        started, f"{LIVE_SECONDS} s of live events at {config.rate:g}/s, stored as they come", LIVE_SECONDS + 10
    ):
        lifecycle.up(config, ["savers"])
        _generate("--rate", f"{config.rate:g}", "--duration", f"{LIVE_SECONDS}s")
        await_drained()
    with _phase(started, "a batch cycle: dimensions, facts and analytics, with their reports", 75):
        _schedule("run")
    lifecycle.up(config, ["scheduler", "api"])
    _await_api(config)
    _show_receipts(config)
    _show_tables(config)
    print("\nup, and a batch cycle runs by cron; `make up` adds live events, `make down` stops it all:")
    for name, address in lifecycle.addresses(config).items():
        print(f"  {name:24}{address}")
    print("\nto try:")
    print(f"  the API's page          {config.api_url}/docs")
    print(f'  today so far            . ./.env; curl -H "X-API-Key: $GM_API_KEY" {config.api_url}/v1/sales/today')
    print(
        f"  best products           . ./.env; curl -H \"X-API-Key: $GM_API_KEY\" '{config.api_url}/v1/products?limit=5'"
    )
    print(f"\ndone in {time.monotonic() - started:.0f} s. Open this:\n{config.runs_dir / 'index.html'}")


@contextmanager
def _phase(started: float, what: str, expected: int) -> Iterator[None]:
    print(f"[{time.monotonic() - started:4.0f} s] {what} (about {expected} s)", flush=True)
    yield


def _is_done(history: Path) -> bool:
    return history.exists() and bool(json.loads(history.read_text())["done"])


def _send_history(history: Path) -> None:
    """Send the history; after an interruption the same events are sent again, so that none is stored twice."""
    if history.exists():
        start = json.loads(history.read_text())["start"]
    else:
        start = (datetime.now(UTC) - timedelta(days=HISTORY_DAYS)).isoformat(timespec="seconds")
        history.write_text(json.dumps({"start": start, "done": False}))
    _generate("--history", f"{HISTORY_DAYS}d", "--start", start)


def _mark_done(history: Path) -> None:
    history.write_text(json.dumps(json.loads(history.read_text()) | {"done": True}))


def _generate(*options: str) -> None:
    _call([sys.executable, "-m", "generators", "all", *options], "the generators")


def _schedule(*arguments: str) -> None:
    _call([sys.executable, str(ROOT / "schedule.py"), *arguments], f"schedule.py {' '.join(arguments)}")


def _call(command: list[str], name: str) -> None:
    done = subprocess.run(command, cwd=ROOT, check=False)
    if done.returncode:
        raise DemoError(f"{name} ended with exit code {done.returncode}; its message is above")


def await_drained() -> None:
    """Wait until everything that Kafka holds is in the realtime database."""
    waiting = Retrying(
        stop=stop_after_delay(DRAIN_SECONDS), wait=wait_fixed(0.5), retry=retry_if_result(lambda lag: lag > 0)
    )
    try:
        waiting(lambda: sum(_lags().values()))
    except RetryError as error:
        raise DemoError(f"the savers don't keep up; see {settings().data_dir / 'logs' / 'savers.log'}") from error


def _lags() -> dict[str, int]:
    return {name: int(backlog(contract)["lag"].sum()) for name, contract in schemas.CONTRACTS.items()}


def _await_api(config: Settings) -> None:
    """Wait until the API can answer."""
    waiting = Retrying(
        stop=stop_after_delay(API_SECONDS), wait=wait_fixed(0.25), retry=retry_if_exception_type(OSError)
    )
    try:
        waiting(lambda: urlopen(f"{config.api_url}/health/ready", timeout=5).close())
    except RetryError as error:
        raise DemoError(f"the API isn't ready; see {config.data_dir / 'logs' / 'api.log'}") from error


def _show_receipts(config: Settings) -> None:
    """Print what became of each topic's messages, and fail when one isn't accounted for."""
    query = (
        "select source_table, sum(rows_in), sum(rows_written), sum(duplicates), sum(dead_letters)"
        " from ops.ingest_batches group by source_table order by source_table"
    )
    with closing(servers.connect(config.address("realtime"))) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        receipts = cursor.fetchall()
    print(f"\n{'topic':24}{'in Kafka':>12}{'rows':>12}{'duplicates':>12}{'dead':>8}")
    for table, read, rows, duplicates, dead in receipts:
        offsets = backlog(schemas.CONTRACTS[table])
        held = int((offsets["end"] - offsets["earliest"]).sum())
        print(f"{TOPICS[table]:24}{held:12,}{rows:12,}{duplicates:12,}{dead:8,}")
        if held > read or read != rows + duplicates + dead:
            raise DemoError(
                f"{TOPICS[table]}: {held} messages in Kafka, {read} read, {rows + duplicates + dead} accounted for"
            )


def _show_tables(config: Settings) -> None:
    """Print how many rows and closed versions each table has, and fail when one is empty."""
    print(f"\n{'table':34}{'rows':>12}")
    empty = []
    for database, tables in TABLES.items():
        with closing(servers.connect(config.address(database))) as connection, connection.cursor() as cursor:
            for table in tables:
                cursor.execute(sql.SQL("select count(*) from {}").format(sql.Identifier(table)))
                count = cursor.fetchall()[0][0]
                closed = ""
                if table in ("dim_customers", "dim_products"):
                    cursor.execute(
                        sql.SQL("select count(*) from {} where not is_current").format(sql.Identifier(table))
                    )
                    closed = f"   {cursor.fetchall()[0][0]:,} of them closed versions"
                print(f"{database + '.' + table:34}{count:12,}{closed}")
                empty += [] if count else [table]
    if empty:
        raise DemoError(f"no rows in {', '.join(empty)}")


if __name__ == "__main__":
    main()
