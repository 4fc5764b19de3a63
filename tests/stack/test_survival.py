"""Live savers under SIGKILL: whatever is killed heals by itself, each event is stored exactly once, and what is served
meanwhile, beside cycles, is true.

Last of this folder by its name: it leaves savers' runs and more events behind.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import cycle
from statistics import quantiles

import httpx
import ledger
import psutil
import pytest
import stored
from load import KEYS, Sent, is_level, load
from truth import STATEMENTS, Readers, reading
from world import eventually

from lib.settings import ROOT, Settings
from lib.stack import lifecycle as parts_of_stack

KINDS = ("kernel", "spark-speed", "realtime", "kafka", "warehouse", "redis")
ANSWERS = 10_000
RATE = 200
HEAL_SECONDS = 180
SEED = 20261123


@dataclass(frozen=True)
class Recovery:
    """One kill: what, and the seconds until the slowest of its tables had stored an event of after the kill."""

    kind: str
    table: str
    seconds: float


@dataclass(frozen=True)
class Ordeal:
    """What was sent while parts were killed, how they recovered, and each table's last batch before."""

    sent: Sent
    recoveries: list[Recovery]
    before: dict[str, int]
    readers: Readers


@pytest.fixture(scope="module")
def ordeal(stack: Settings, drained: dict[str, int], soak: bool) -> Iterator[Ordeal]:
    """Each part killed once (20 kills with --soak) at random moments, while the savers are at work under load.

    Meanwhile cycles follow one another, with --soak rebuilds that are swapped in, too, and readers ask for what is served.
    """
    chance = random.Random(SEED)
    kinds = [*KINDS] * (4 if soak else 1)
    chance.shuffle(kinds)
    parts_of_stack.up(stack, ["savers", "api"])
    eventually(lambda: _is_ready(stack))
    try:
        with reading(stack, *([2, 0.01] if soak else [])) as readers:
            with load(stack, rate=RATE, name="ordeal") as sent:
                _recovery(stack, "start", datetime.now(UTC), dict.fromkeys(KEYS, 0))
                with _cycles(stack, ["run", "batch"], *[["rebuild", "--swap"]] * soak):
                    recoveries = [_kill(stack, kind, chance) for kind in kinds]
                    parts_of_stack.await_health(stack)
                    patience = HEAL_SECONDS * (8 if soak else 1)
                    eventually(lambda: len(readers.answers) > (ANSWERS if soak else 0), seconds=patience)
            eventually(lambda: all(map(is_level, KEYS)), seconds=HEAL_SECONDS)
        yield Ordeal(sent, recoveries, drained, readers)
    finally:
        parts_of_stack.stop(stack, ["savers", "api"])


def _is_ready(config: Settings) -> bool:
    try:
        return httpx.get(f"{config.api_url}/health/ready").status_code == 200
    except httpx.HTTPError:
        return False


@contextmanager
def _cycles(config: Settings, *commands: list[str]) -> Iterator[None]:
    """`schedule.py` with each of the commands in turn, again and again; one of them may fail when a part of it is killed."""
    stop = threading.Event()

    def run() -> None:
        for arguments in cycle(commands):
            if stop.is_set():
                return
            command = [sys.executable, str(ROOT / "schedule.py"), *arguments]
            subprocess.run(command, cwd=ROOT, capture_output=True, check=False, timeout=900)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _kill(config: Settings, kind: str, chance: random.Random) -> Recovery:
    """Kill one of the parts, or one of the notebooks' kernels, at a random moment, and wait until it has healed."""
    time.sleep(chance.uniform(0, 3))
    since = dict.fromkeys(KEYS, 0)
    if kind == "kernel":
        table, process = chance.choice(sorted(_kernels(config).items()))
        # an orphaned query goes on: it has healed when the successor writes
        since = {table: _epochs(config)[table] + 1}
        process.kill()
    else:
        os.kill(parts_of_stack.status(config)[kind]["pid"], signal.SIGKILL)
    return _recovery(config, kind, datetime.now(UTC), since)


def _kernels(config: Settings) -> dict[str, psutil.Process]:
    """The kernels of the stack's savers, by table: in their run's session, in a group of their own, writing to the run's log."""
    found = {}
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpgid(process.pid) != os.getsid(process.pid):
                output = os.readlink(f"/proc/{process.pid}/fd/1")
                if output.startswith(str(config.runs_dir)):
                    found |= {table: process for table in KEYS if f"/ingest/{table}/" in output}
        except (psutil.Error, OSError):
            continue
    return found


def _epochs(config: Settings) -> dict[str, int]:
    with stored.connected(config, "realtime") as realtime:
        heads = stored.rows(realtime, "select source_table, epoch from ops.ingest_heads")
    return {head["source_table"]: head["epoch"] for head in heads}


def _recovery(config: Settings, kind: str, moment: datetime, since: dict[str, int]) -> Recovery:
    """Wait until each table has an event of after `moment`, stored in the table's epoch of `since` or later."""
    query = (
        "select source_table, min(committed_at) as at from ops.ingest_batches b"
        " join unnest(%s, %s) as since (source_table, epoch) using (source_table)"
        " where b.last_event_at > %s and b.epoch >= since.epoch group by source_table"
    )

    def healed() -> dict[str, datetime] | None:
        with stored.connected(config, "realtime") as realtime:
            found = stored.rows(realtime, query, [*since], [*since.values()], moment)
        return {row["source_table"]: row["at"] for row in found} if len(found) == len(since) else None

    firsts = eventually(healed, seconds=HEAL_SECONDS)
    slowest = max(firsts, key=firsts.get)
    return Recovery(kind, slowest, (firsts[slowest] - moment).total_seconds())


@pytest.mark.parametrize("table", KEYS)
def test_each_event_that_was_acknowledged_is_stored_once_or_a_dead_letter(
    ordeal: Ordeal, realtime: stored.Connection, table: str
) -> None:
    key, sent = KEYS[table], ordeal.sent
    found = stored.rows(realtime, f"select {key} as id from {table} where {key} like %s", "ordeal-%")
    letters = stored.rows(realtime, "select payload from ops.dead_letters where source_table = %s", table)
    texts = [bytes(letter["payload"] or b"") for letter in letters]
    dead = [json.loads(text)[key] for text in texts if b'"ordeal-' in text]
    assert sorted(row["id"] for row in found) == sorted(sent.good[table])
    assert sorted(dead) == sorted(sent.dead[table])


@pytest.mark.parametrize("table", KEYS)
def test_the_ledger_is_whole_and_counts_each_message_once(
    ordeal: Ordeal, realtime: stored.Connection, table: str
) -> None:
    whole = ledger.assert_whole(realtime, table)
    batches = [batch for batch in whole if batch["ingest_batch_id"] > ordeal.before[table]]
    sent = ordeal.sent
    assert {name: sum(batch[name] for batch in batches) for name in ledger.COUNTS[1:]} == {
        "rows_written": len(sent.good[table]),
        "duplicates": sent.again[table],
        "dead_letters": len(sent.dead[table]),
    }


def test_no_answer_was_wrong_while_parts_were_killed_and_cycles_ran(
    stack: Settings, ordeal: Ordeal, capsys: pytest.CaptureFixture[str], soak: bool
) -> None:
    answers = Counter(answer.kind for answer in ordeal.readers.answers)
    wrong = ordeal.readers.judge()
    with capsys.disabled():
        print(
            f"\n{sum(answers.values())} answers, {len(wrong)} of them wrong: {dict(answers)}; away: {dict(ordeal.readers.away)}"
        )
    assert wrong[:5] == []
    assert answers.keys() == {*STATEMENTS, "api"}
    assert not soak or sum(answers.values()) > ANSWERS


def test_the_query_of_a_killed_notebook_was_stopped(stack: Settings, ordeal: Ordeal) -> None:
    log = (stack.data_dir / "logs" / "savers.log").read_text()
    killed = {recovery.table for recovery in ordeal.recoveries if recovery.kind == "kernel"}
    assert all(f"stopped the query {table}-" in log for table in killed)


def test_how_long_the_recoveries_took(ordeal: Ordeal, capsys: pytest.CaptureFixture[str]) -> None:
    seconds = [recovery.seconds for recovery in ordeal.recoveries]
    assert len(seconds) >= len(KINDS)
    with capsys.disabled():
        print(f"\n{ordeal.sent.messages} messages sent, {len(seconds)} kills")
        for kind in KINDS:
            print(f"  {kind:12}", *(f"{each.seconds:5.1f} s" for each in ordeal.recoveries if each.kind == kind))
        print(f"  p95 {quantiles(seconds, n=20, method='inclusive')[-1]:.1f} s")
