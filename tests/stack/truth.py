"""Readers of what is served, and whether each answer was true: a state that the ledger has been in, and a recent one."""

import threading
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import httpx
import psycopg2
import stored

from lib import servers
from lib.settings import Settings

HEADS = (
    "(select last_batch from serving.freshness where source_table = 'transactions') as transactions,"
    " (select last_batch from serving.freshness where source_table = 'product_view_events') as product_view_events,"
    " (select last_batch from serving.freshness where source_table = 'cart_events') as cart_events"
)
STATEMENTS = {
    "lines": f"select {HEADS}, count(*) as lines, sum(revenue) as revenue from serving.sales",
    "views": f"select {HEADS}, count(*) as views from serving.product_views",
    "carts": f"select {HEADS}, count(*) as carts from serving.cart_events",
    "days": f"select {HEADS}, sum(orders) as orders, sum(revenue) as revenue from serving.sales_days where category = 'All'",
    "products": f"select {HEADS}, sum(views) as views, sum(revenue) as revenue from serving.product_days",
}
"""Each is one statement, which says up to which batches it has seen the realtime database."""

OF_BATCHES = {
    "orders": ("transactions", "select ingest_batch_id, count(*) from transactions group by 1"),
    "lines": ("transactions", "select ingest_batch_id, sum(jsonb_array_length(products)) from transactions group by 1"),
    "revenue": (
        "transactions",
        # named in full: a field that somebody sends may have become a column of any name
        "select o.ingest_batch_id, sum(round((l.value ->> 'quantity')::int * (l.value ->> 'price')::numeric(18, 4), 2))"
        " from transactions as o, jsonb_array_elements(o.products) as l (value) group by o.ingest_batch_id",
    ),
    "views": ("product_view_events", "select ingest_batch_id, count(*) from product_view_events group by 1"),
    "carts": ("cart_events", "select ingest_batch_id, count(*) from cart_events group by 1"),
}
"""What was stored in each batch, by measure; computed without anything that is served."""

OLD_SECONDS = 3.0
"""How old a state the API may answer with: it looks for a new version four times a second, and holds one for two seconds."""


@dataclass(frozen=True)
class Answer:
    """An answer to a statement, or of the API with the time of the question."""

    kind: str
    asked: float
    values: dict[str, Any]


@dataclass
class Readers:
    """What the readers were told, and how often something was away."""

    config: Settings
    pause: float
    """Seconds between two questions of a reader."""
    stop: threading.Event = field(default_factory=threading.Event)
    answers: list[Answer] = field(default_factory=list)
    away: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    heads: list[tuple[float, int]] = field(default_factory=list)
    """The last batch of `transactions`, each with a time at which it was stored already."""

    def read_statements(self) -> None:
        """Ask the warehouse, one statement after the other, until told to stop."""
        while not self.stop.is_set():
            try:
                with closing(servers.connect(self.config.address("warehouse", reader=True), timeout=5)) as connection:
                    connection.autocommit = True
                    self._ask(connection)
            except psycopg2.Error as error:
                self.away[type(error).__name__] += 1
                self.stop.wait(0.1)

    def _ask(self, connection: stored.Connection) -> None:
        with connection.cursor() as cursor:
            while not self.stop.is_set():
                for kind, statement in STATEMENTS.items():
                    asked = time.time()
                    cursor.execute(statement)
                    names = [column.name for column in cursor.description or ()]
                    self.answers.append(Answer(kind, asked, dict(zip(names, cursor.fetchall()[0], strict=True))))
                    self.stop.wait(self.pause)

    def read_api(self) -> None:
        """Ask the API until told to stop; what isn't an answer has to be a problem that says when to come back."""
        headers = {"X-API-Key": self.config.api_key.get_secret_value()}
        paths = ("/v1/sales/days?from=2020-01-01&to=2029-12-31", "/v1/sales/days?from=2020-01-02&to=2029-12-31")
        with httpx.Client(base_url=self.config.api_url, headers=headers, timeout=30) as client:
            while not self.stop.is_set():
                for path in paths:
                    self._get(client, path)
                self.stop.wait(self.pause)

    def _get(self, client: httpx.Client, path: str) -> None:
        asked = time.time()
        try:
            answer = client.get(path)
        except httpx.HTTPError as error:
            self.wrong.append(f"no answer: {error!r}")
            return
        if answer.status_code == 503:
            self.away["503"] += 1
            if not answer.headers.get("retry-after"):
                self.wrong.append("503 without Retry-After")
            self.stop.wait(0.1)
        elif answer.status_code == 200:
            days = answer.json()["days"]
            self.answers.append(Answer("api", asked, {"orders": sum(day["orders"] for day in days)}))
        else:
            self.wrong.append(f"{answer.status_code}: {answer.text[:200]}")

    def look_at_head(self) -> None:
        """Take down how far ingestion is, again and again, until told to stop."""
        query = "select last_batch from ops.ingest_heads where source_table = 'transactions'"
        while not self.stop.is_set():
            try:
                with stored.connected(self.config, "realtime") as connection:
                    while not self.stop.is_set():
                        head = stored.scalar(connection, query)
                        self.heads.append((time.time(), head))
                        self.stop.wait(0.1)
            except psycopg2.Error:
                self.stop.wait(0.1)

    def judge(self) -> list[str]:
        """Every answer that isn't true, in words; to be called when nothing is being stored any more."""
        wrong = list(self.wrong)
        with stored.connected(self.config, "realtime") as connection:
            assert stored.rows(connection, "select from ops.held_events where released_batch is null") == []
            sums = {name: _Sums(connection, query) for name, (_, query) in OF_BATCHES.items()}
        for answer in self.answers:
            if answer.kind == "api":
                head = self.heads[max(bisect_right(self.heads, (answer.asked - OLD_SECONDS, 1 << 62)) - 1, 0)][1]
                if not sums["orders"].has_been(answer.values["orders"], since=head):
                    wrong.append(f"{answer}: never so since batch {head}, which had {sums['orders'].upto(head)}")
                continue
            for name, (table, _) in OF_BATCHES.items():
                # a sum of nothing is NULL
                if name in answer.values and (answer.values[name] or 0) != sums[name].upto(answer.values[table]):
                    wrong.append(f"{answer}: {name} was {sums[name].upto(answer.values[table])}")
        return wrong


class _Sums:
    """A measure up to each batch."""

    def __init__(self, connection: stored.Connection, query: str) -> None:
        with connection, connection.cursor() as cursor:
            cursor.execute(f"{query} order by 1")
            found = cursor.fetchall()
        self.batches = [batch for batch, _ in found]
        self.sums = [0, *accumulate(value for _, value in found)]

    def upto(self, batch: int) -> Any:
        return self.sums[bisect_right(self.batches, batch)]

    def has_been(self, value: Any, *, since: int) -> bool:
        return value in self.sums[bisect_right(self.batches, since) :]


@contextmanager
def reading(config: Settings, statements: int = 1, pause: float = 0.2) -> Iterator[Readers]:
    """Readers at work for as long as the block lasts: of the warehouse, as many as `statements`, and one of the API."""
    readers = Readers(config, pause)
    work = [readers.read_api, readers.look_at_head, *[readers.read_statements] * statements]
    threads = [threading.Thread(target=each, daemon=True) for each in work]
    for thread in threads:
        thread.start()
    try:
        yield readers
    finally:
        readers.stop.set()
        for thread in threads:
            thread.join(timeout=60)
            assert not thread.is_alive()
