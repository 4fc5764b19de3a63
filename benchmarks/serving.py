"""The API under load on loopback: CPU and rate of kept answers, seconds of others, and how late a live figure is.

wrk asks (`apt-get install wrk`); on two cores its own share is shown. Beside it, in the same run: FastAPI and psycopg with
the same query and none of our code.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from statistics import quantiles
from typing import Any

import httpx
import pandas as pd
import psutil

from benchmarks import cycle, figures, history, throwaway
from generators.events import Event
from generators.model import Scenario, simulate
from generators.producer import produce
from lib.settings import ROOT, TOPICS, Settings
from lib.stack import lifecycle
from serving import access
from serving.client import Client

DAYS = 200
CONNECTIONS = 16
FOLLOWERS = 200
LIVE_EVENTS = 60
PLAIN_PORT = 18080


def measure(events: int, seconds: int, rounds: int) -> pd.DataFrame:
    """Load a history, start the API and its peer, and ask both in turns. Grain: one row per round and measurement."""
    if not shutil.which("wrk"):
        sys.exit("wrk isn't installed: `apt-get install wrk`")
    start = datetime.now(UTC) - timedelta(days=DAYS)
    scenario = Scenario(
        start=start, history=timedelta(days=DAYS), events=events, rate=50, duration=timedelta(minutes=5)
    )
    stream = simulate(scenario)
    records: list[dict[str, Any]] = []
    with throwaway.running("serving") as config:
        throwaway.say(f"serving: {events:,} events of history …")
        history.load(islice(stream, events))
        cycle.schedule("run")
        history.load(islice(stream, 5_000))  # unread ones
        lifecycle.start(config, ["api", "savers"])
        token = _key(config)
        with _plain(config):
            for number in range(rounds):
                throwaway.say(f"serving: round {number + 1} of {rounds} …")
                records += [{"round": number, **row} for row in _round(config, token, seconds)]
        records += [{"round": 0, **row} for row in _live(config)]
    return pd.DataFrame(records)


def show(measured: pd.DataFrame) -> None:
    """Print the medians as a Markdown table."""
    figures.show("medians over the rounds", figures.medians(measured.drop(columns="round"), "what").round(2))


def _key(config: Settings) -> str:
    """A key without a limit that matters; waits until the API knows it."""
    token, _ = access.create("benchmark", per_minute=10**9)
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        with suppress(httpx.HTTPError):
            if httpx.get(f"{config.api_url}/v1/sales/today", headers={"X-API-Key": token}).status_code == 200:
                return token
        time.sleep(0.2)
    sys.exit("the API doesn't answer")


@contextmanager
def _plain(config: Settings) -> Iterator[None]:
    """The peer, at work."""
    command = ["-m", "uvicorn", "benchmarks.peers.plain_api:app", "--port", str(PLAIN_PORT), "--no-access-log"]
    environment = os.environ | {"PLAIN_DSN": config.address("warehouse", reader=True).get_secret_value()}
    process = subprocess.Popen(
        [sys.executable, *command, "--loop", "uvloop", "--http", "httptools"], cwd=ROOT, env=environment
    )
    try:
        ends = time.monotonic() + 30
        while time.monotonic() < ends:
            with suppress(httpx.HTTPError):
                httpx.get(f"http://localhost:{PLAIN_PORT}/docs")
                break
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait()


def _round(config: Settings, token: str, seconds: int) -> Iterator[dict[str, Any]]:
    key = {"X-API-Key": token}
    ours, theirs = config.api_url, f"http://localhost:{PLAIN_PORT}"
    last = datetime.now(UTC).date()
    first = last - timedelta(days=29)
    path = f"/v1/products?from={first}&to={last}"
    etag = httpx.get(f"{ours}{path}", headers=key | {"Accept-Encoding": "identity"}).headers["etag"]
    api = [lifecycle.status(config)["api"]["pid"]]
    yield _wrk("kept answer, with key and limit", f"{ours}{path}", key, seconds, api)
    yield _wrk("304 of the same", f"{ours}{path}", key | {"If-None-Match": etag}, seconds, api)
    plain = f"{theirs}/v1/products?first={first}&last={last}"
    peer = [
        each.pid
        for each in psutil.process_iter(["cmdline"])
        if "benchmarks.peers.plain_api:app" in (each.info["cmdline"] or [])
    ]
    yield _wrk("peer: plain FastAPI and psycopg", plain, {}, seconds, peer)
    yield _one_by_one("computed answer, 30 days", f"{ours}/v1/products", key, last)
    yield _one_by_one("peer, 30 days", f"{theirs}/v1/products", {}, last)


def _wrk(what: str, url: str, headers: Mapping[str, str], seconds: int, pids: list[int]) -> dict[str, Any]:
    """What wrk counts of a URL, and the server's CPU per request."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", url]
    command += [part for name, value in headers.items() for part in ("-H", f"{name}: {value}")]
    before, ours = _cpu(pids), time.monotonic()
    process = psutil.Popen(command, stdout=subprocess.PIPE, text=True)
    own = 0.0
    while process.poll() is None:
        with suppress(psutil.Error):
            own = sum(process.cpu_times()[:2])
        time.sleep(0.2)
    text = process.stdout.read()
    spent = _cpu(pids) - before
    requests = int(re.findall(r"(\d+) requests in", text)[0])
    if errors := re.findall(r"Non-2xx or 3xx responses: (\d+)", text):
        sys.exit(f"{what}: {errors[0]} errors")
    value, unit = re.findall(r"99%\s+([\d.]+)(us|ms|s)", text)[0]
    return {
        "what": what,
        "requests/s": requests / (time.monotonic() - ours),
        "CPU µs a request": spent / requests * 1e6,
        "p99 ms": float(value) * {"us": 0.001, "ms": 1, "s": 1000}[unit],
        "wrk's cores": own / seconds,
    }


def _cpu(pids: list[int]) -> float:
    return float(sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids))


def _one_by_one(what: str, url: str, headers: Mapping[str, str], last: date) -> dict[str, Any]:
    """Seconds of answers that nobody has asked for before, one after the other."""
    took = []
    with httpx.Client(headers=dict(headers)) as client:
        for number in range(100):
            day = last - timedelta(days=number)
            names = ("first", "last") if not headers else ("from", "to")
            # a limit of its own, so that no earlier round has asked for it
            given = {
                names[0]: str(day - timedelta(days=29)),
                names[1]: str(day),
                "limit": str(20 + int(time.time() * 10) % 400),
            }
            began = time.monotonic()
            client.get(url, params=given).raise_for_status()
            took.append(time.monotonic() - began)
    cuts = quantiles(took, n=100, method="inclusive")
    return {"what": what, "p50 ms": cuts[49] * 1000, "p99 ms": cuts[98] * 1000}


def _live(config: Settings) -> Iterator[dict[str, Any]]:
    """From an order's sending to the figure that holds it, on a stream, while many others follow it, too."""
    stop = threading.Event()
    seen: list[tuple[int, float]] = []

    def follow(note: bool) -> None:
        with Client() as client, suppress(httpx.HTTPError):
            for today in client.follow():
                if note:
                    seen.append((today.orders, time.time()))
                if stop.is_set():
                    return

    threads = [threading.Thread(target=follow, args=(number == 0,), daemon=True) for number in range(FOLLOWERS)]
    for thread in threads:
        thread.start()
    ends = time.monotonic() + 60
    while not seen and time.monotonic() < ends:
        time.sleep(0.1)
    orders, _ = seen[-1]
    took = []
    for number in range(LIVE_EVENTS):
        sent = time.time()
        produce([_order(f"bench-{sent}-{number}")], TOPICS, bootstrap=config.kafka_bootstrap)
        orders += 1
        while not (at := next((at for count, at in seen if count >= orders), None)) and time.time() < sent + 30:
            time.sleep(0.01)
        took.append((at or time.time()) - sent)
    stop.set()
    cuts = quantiles(took, n=100, method="inclusive")
    what = f"event to live figure, {FOLLOWERS} followers"
    yield {"what": what, "p50 ms": cuts[49] * 1000, "p99 ms": cuts[98] * 1000}


def _order(key: str) -> Event:
    now = datetime.now(UTC)
    line = {"product_id": "prod_1", "quantity": 1, "price": 9.99}
    value = {
        "transaction_id": key,
        "user_id": "user_1",
        "transaction_timestamp": now.isoformat(),
        "total_amount": 9.99,
        "products": [line],
    }
    return Event("transactions", int(now.timestamp() * 1000), json.dumps(value).encode())
