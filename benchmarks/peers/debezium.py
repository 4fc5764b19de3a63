"""Debezium's JDBC sink on a Kafka Connect worker of its own: idempotent upserts, tuned."""

import json
import os
import socket
import subprocess
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError, URLError

from psycopg2.extensions import parse_dsn
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from benchmarks import backlog
from benchmarks.peers import jars, tables
from lib.settings import Settings

HEAP = ["-Xms256m", "-Xmx2g", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35"]
"""The worker's heap, and the collector's settings of Kafka's own start script."""

START_SECONDS = 90
NOT_YET = (404, 409, 503)
"""What the worker answers while it starts, or while a connector does."""


class Failed(Exception):
    """A task of the connector ended; the message is its trace."""


class Worker:
    """A running Connect worker; `sink` runs the connector in it, several times one after the other."""

    def __init__(self, config: Settings, port: int) -> None:
        self.config = config
        self._url = f"http://127.0.0.1:{port}/connectors"

    @contextmanager
    def sink(self) -> Iterator[Callable[[], None]]:
        """Run the connector as a new consumer group, from the first message on; what it gives tells whether it runs."""
        name = f"sink-{uuid.uuid4().hex[:8]}"
        self._await(lambda: self._call("POST", "", {"name": name, "config": self._connector()}))
        try:
            self._await(lambda: self._check(name))
            yield lambda: self._check(name)
        finally:
            self._call("DELETE", f"/{name}")

    def _check(self, name: str) -> None:
        """Fail unless every task runs: with `URLError` while they start, with `Failed` for good."""
        tasks = self._call("GET", f"/{name}/status")["tasks"]
        if failed := [task for task in tasks if task["state"] == "FAILED"]:
            raise Failed(failed[0]["trace"])
        if not tasks or any(task["state"] != "RUNNING" for task in tasks):
            raise URLError("the tasks haven't started")

    def _await(self, action: Callable[[], object]) -> None:
        patience = Retrying(
            stop=stop_after_delay(START_SECONDS),
            wait=wait_fixed(0.1),
            retry=retry_if_exception_type(URLError),
            reraise=True,
        )
        patience(action)

    def _call(self, method: str, path: str, body: object = None) -> dict[str, list[dict[str, str]]]:
        data = json.dumps(body).encode() if body else None
        request = urllib.request.Request(self._url + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                content: dict[str, list[dict[str, str]]] = json.loads(answer.read() or b"{}")
                return content
        except HTTPError as error:
            if error.code in NOT_YET:
                raise URLError(f"the worker isn't ready: {error}") from error
            raise Failed(f"{method} {path or '/'}: {error.read().decode()}") from error

    def _connector(self) -> dict[str, str]:
        place = parse_dsn(tables.dsn(self.config))
        url = f"jdbc:postgresql://{place['host']}:{place['port']}/{place['dbname']}?reWriteBatchedInserts=true"
        return {
            "connector.class": "io.debezium.connector.jdbc.JdbcSinkConnector",
            "topics": ",".join(backlog.ENVELOPED.values()),
            "collection.name.format": "${topic}",
            "tasks.max": "3",
            "connection.url": url,
            "connection.username": place["user"],
            "connection.password": place["password"],
            "connection.pool.min_size": "1",
            "connection.pool.max_size": "2",
            "insert.mode": "upsert",
            "primary.key.mode": "record_value",
            "primary.key.fields": "transaction_id,event_id",
            "schema.evolution": "none",
            "batch.size": "500",
            "consumer.override.max.poll.records": "500",
            "consumer.override.max.partition.fetch.bytes": "10485760",
            "consumer.override.auto.offset.reset": "earliest",
            "transforms": "time",
            "transforms.time.type": "org.apache.kafka.connect.transforms.ReplaceField$Value",
            "transforms.time.renames": "timestamp:event_timestamp",
        }


@contextmanager
def running(config: Settings) -> Iterator[Worker]:
    """A Connect worker for as long as the block; it starts while the block begins."""
    folder = config.data_dir / "connect"
    folder.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    plugins = _plugins(folder)
    properties = folder / "worker.properties"
    options = {
        "bootstrap.servers": config.kafka_bootstrap,
        "key.converter": "org.apache.kafka.connect.storage.StringConverter",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter",
        "value.converter.schemas.enable": "true",
        "offset.storage.file.filename": str(folder / "offsets"),
        "plugin.path": str(plugins),
        # the default looks through every class, and takes seconds
        "plugin.discovery": "service_load",
        "listeners": f"http://127.0.0.1:{port}",
        "connector.client.config.override.policy": "All",
    }
    properties.write_text("".join(f"{name}={value}\n" for name, value in options.items()))
    command = [jars.java(), *HEAP, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp"]
    command += [f"{jars.folder('connect')}/*", "org.apache.kafka.connect.cli.ConnectStandalone", str(properties)]
    with (config.data_dir / "logs" / "connect.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield Worker(config, port)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _plugins(folder: Path) -> Path:
    """The plugin folder: one folder per connector, here one in all."""
    plugins = folder / "plugins"
    plugins.mkdir(exist_ok=True)
    if not (plugins / "debezium").exists():
        os.symlink(jars.folder("debezium"), plugins / "debezium")
    return plugins
