"""Metrics for Prometheus: ingestion from the ledger, jobs from the registry of runs, and the disk.

`python -m lib.ledger.metrics` answers at `GM_METRICS_HOST` and `GM_METRICS_PORT`, on loopback by default.
"""

import logging
import math
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import psycopg2
from kafka import KafkaAdminClient
from kafka.errors import KafkaError
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from psycopg2.extensions import connection as Connection

from lib import brokers, servers
from lib.ledger import jobs
from lib.ledger import totals as ledger
from lib.ledger.head import LATENCY_SECONDS
from lib.ledger.offsets import Span, held
from lib.ledger.totals import Totals
from lib.schemas import REASONS
from lib.settings import TOPICS, Settings, required

ANSWER_SECONDS = 3
"""How long a part may take to answer: Prometheus gives a scrape ten seconds."""

Offsets = dict[str, dict[int, Span]]
"""What Kafka holds of each partition of a topic, by the topic's table."""

log = logging.getLogger("metrics")


class Closable(Protocol):
    """A client that can be closed."""

    def close(self) -> object:
        """Give its connections back."""


Client = TypeVar("Client", bound=Closable)
Answer = TypeVar("Answer")


class Part(Generic[Client]):
    """A part of the stack that is asked now and then; its client is kept as long as it works."""

    def __init__(self, name: str, connect: Callable[[], Client], errors: tuple[type[Exception], ...]) -> None:
        self.name = name
        self.is_up = True
        self._connect = connect
        self._errors = errors
        self._client: Client | None = None

    def ask(self, question: Callable[[Client], Answer]) -> Answer | None:
        """The answer of the part. While it gives none, this returns None and `is_up` is false; each change is logged once."""
        was_up, self.is_up = self.is_up, True
        # the part may have been restarted since the client was made, so one that fails is made again once
        for is_last in (self._client is None, True):
            try:
                self._client = self._client or self._connect()
                answer = question(self._client)
            except self._errors as error:
                self.close()
                if is_last:
                    self.is_up = False
                    if was_up:
                        log.warning("%s doesn't answer: %s", self.name, " ".join(str(error).split()))
                    return None
            else:
                if not was_up:
                    log.warning("%s answers again", self.name)
                return answer
        return None

    def close(self) -> None:
        """Give the client's connections back."""
        if self._client is not None:
            self._client.close()
        self._client = None


class Exporter(Collector):
    """What Prometheus scrapes; counters go on from the ledger when this process is started again.

    While a database is away, its figures stay as they were and `globalmart_up` is 0; while Kafka is, there is no lag.
    """

    def __init__(self, config: Settings) -> None:
        self._config = config
        self._realtime = Part("the realtime database", lambda: _connect(config, "realtime"), (psycopg2.Error,))
        self._warehouse = Part("the warehouse", lambda: _connect(config, "warehouse"), (psycopg2.Error,))
        self._kafka = Part("Kafka", lambda: _kafka_client(config), (KafkaError, OSError))
        self._totals: dict[str, Totals] = {}
        self._standings = jobs.Standings()
        self._lock = threading.Lock()

    def collect(self) -> Iterable[Metric]:
        """All families of metrics as of now."""
        with self._lock:
            # heads before offsets: what arrives in between counts as lag, and no lag is negative
            self._totals = self._realtime.ask(lambda client: ledger.refresh(client, self._totals)) or self._totals
            offsets = self._kafka.ask(_offsets) or {}
            notebooks = self._config.notebooks_dir
            self._standings = self._warehouse.ask(lambda client: jobs.read(client, notebooks)) or self._standings
            up = GaugeMetricFamily("globalmart_up", "Whether a part of the stack answers.", labels=["part"])
            up.add_metric(["realtime"], self._realtime.is_up)
            up.add_metric(["warehouse"], self._warehouse.is_up)
            up.add_metric(["kafka"], self._kafka.is_up)
            ingestion = [*counters(self._totals), *histograms(self._totals), *gauges(self._totals, offsets)]
            return [up, *ingestion, *jobs.gauges(self._standings, self._config.cron), *disk(self._config.data_dir)]

    def close(self) -> None:
        """Give all connections back."""
        self._realtime.close()
        self._warehouse.close()
        self._kafka.close()


# --- the parts


def _connect(config: Settings, database: str) -> Connection:
    return servers.connect(config.address(database), timeout=ANSWER_SECONDS, application_name="metrics")


def _kafka_client(config: Settings) -> KafkaAdminClient:
    address = brokers.reach(config.kafka_bootstrap, seconds=ANSWER_SECONDS)
    wait = {f"{name}_timeout_ms": ANSWER_SECONDS * 1000 for name in ("bootstrap", "request")}
    return KafkaAdminClient(bootstrap_servers=address, **wait)


def _offsets(client: KafkaAdminClient) -> Offsets:
    found = held(client, list(TOPICS.values()))
    return {table: found[topic] for table, topic in TOPICS.items()}


# --- the families


def counters(totals: dict[str, Totals]) -> list[Metric]:
    """What has been counted of each table since its ledger began."""
    families = []
    for column, name, text in (
        ("rows_in", "messages", "Messages read from Kafka: rows, duplicates and dead letters."),
        ("rows_written", "rows", "Rows written."),
        ("duplicates", "duplicates", "Messages whose event was stored already, and which were dropped."),
        ("conflicts", "conflicts", "Duplicates whose payload was another one than the stored event's."),
    ):
        family = CounterMetricFamily(f"globalmart_ingest_{name}", text, labels=["table"])
        for table, known in totals.items():
            family.add_metric([table], known.counts[column])
        families.append(family)
    dead = CounterMetricFamily(
        "globalmart_ingest_dead_letters", "Messages that couldn't be stored, by reason.", labels=["table", "reason"]
    )
    batches = CounterMetricFamily("globalmart_ingest_batches", "Micro-batches committed.", labels=["table"])
    changes = CounterMetricFamily(
        "globalmart_ingest_schema_changes", "Columns added for new fields of events.", labels=["table"]
    )
    for table, known in totals.items():
        batches.add_metric([table], known.batch)
        changes.add_metric([table], known.schema_changes)
        # each reason starts at 0, so that its first letter is an increase that an alert can see
        for reason in sorted({*REASONS, *known.dead_letters}):
            dead.add_metric([table, reason], known.dead_letters[reason])
    return [*families, dead, batches, changes]


def histograms(totals: dict[str, Totals]) -> list[Metric]:
    """Each table's latencies, and the times between its commits."""
    latency = HistogramMetricFamily(
        "globalmart_ingest_latency_seconds", "From an event's own time to its batch in the ledger.", labels=["table"]
    )
    interval = HistogramMetricFamily(
        "globalmart_ingest_commit_interval_seconds", "From one micro-batch's commit to the next.", labels=["table"]
    )
    for table, known in totals.items():
        # rows from before migration 004 have no sum of latencies: without any, Prometheus expects buckets alone
        total = known.latency_seconds or None
        latency.add_metric([table], cumulative(known.latencies, LATENCY_SECONDS), total)
        interval.add_metric([table], cumulative(known.intervals, ledger.INTERVALS), known.interval_seconds)
    return [latency, interval]


def cumulative(counts: Counter[float], bounds: Sequence[float]) -> list[tuple[str, float]]:
    """For each bound how many are not above it, the last bound being infinite: the form of a Prometheus histogram."""
    return [
        ("+Inf" if math.isinf(limit) else str(limit), sum(count for bound, count in counts.items() if bound <= limit))
        for limit in (*bounds, float("inf"))
    ]


def gauges(totals: dict[str, Totals], offsets: Offsets) -> list[Metric]:
    """What holds for each table now, with the lag of those whose `offsets` Kafka has given."""
    committed = GaugeMetricFamily(
        "globalmart_ingest_last_commit_timestamp_seconds", "When the last micro-batch was committed.", labels=["table"]
    )
    heartbeat = GaugeMetricFamily(
        "globalmart_ingest_heartbeat_age_seconds", "Time since the saver's last sign of life.", labels=["table"]
    )
    lag = GaugeMetricFamily(
        "globalmart_ingest_lag_messages",
        "Messages in Kafka that aren't in the realtime database yet; below 0: the topic was made anew.",
        labels=["table", "partition"],
    )
    waiting = GaugeMetricFamily(
        "globalmart_ingest_open_messages",
        "Messages in Kafka that can't be read before a transaction ends.",
        labels=["table", "partition"],
    )
    held_events = GaugeMetricFamily(
        "globalmart_ingest_held_events",
        "Stored events that loads go on without, until they are released.",
        labels=["table"],
    )
    for table, known in totals.items():
        held_events.add_metric([table], known.held_events)
        if known.committed_at is not None:
            committed.add_metric([table], known.committed_at)
        if known.heartbeat is not None:
            heartbeat.add_metric([table], time.monotonic() - known.heartbeat)
        for partition, span in sorted(offsets.get(table, {}).items()):
            lag.add_metric([table, str(partition)], span.stable - known.end_offsets.get(partition, span.earliest))
            waiting.add_metric([table, str(partition)], span.end - span.stable)
    return [committed, heartbeat, lag, waiting, held_events]


def disk(folder: Path) -> list[Metric]:
    """The disk that holds `folder`: how large it is, and how much of it we may still use."""
    usage = shutil.disk_usage(folder)
    return [
        GaugeMetricFamily("globalmart_disk_free_bytes", "Free space on the disk of GM_DATA_DIR.", value=usage.free),
        GaugeMetricFamily("globalmart_disk_size_bytes", "Size of the disk of GM_DATA_DIR.", value=usage.total),
    ]


def main() -> None:
    """Answer scrapes until the process is ended."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # what matters is raised
    config = required()
    with closing(Exporter(config)) as exporter:
        # asks for the names of all metrics, which reads the whole ledger once; so the first scrape needn't wait for that
        registry = CollectorRegistry(auto_describe=True)
        registry.register(exporter)
        try:
            _, server = start_http_server(config.metrics_port, addr=config.metrics_host, registry=registry)
        except OSError as error:
            port = f"port {config.metrics_port} ({error.strerror})"
            sys.exit(f"globalmart: metrics can't listen on {port}: free it, or set GM_METRICS_PORT")
        server.join()


if __name__ == "__main__":
    main()
