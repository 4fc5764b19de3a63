"""Cuts at any moment, midnight above all: as long as no event is late, nothing in the warehouse depends on them."""

import random
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import stored
from arrivals import DAYS, Batch, apart, batches, commit, day_start
from line import Schedule

from lib import database
from lib.ledger import cuts as incremental
from lib.ledger.cuts import GRACE, Cut
from lib.schemas import CONTRACTS
from lib.settings import Settings

CUTS = 200


def moments(start: datetime, rng: random.Random) -> list[datetime]:
    """200 moments: a minute before and after each midnight, just before its grace is over, the end, others at random."""
    end = start + timedelta(days=DAYS, hours=1)
    midnights = [start + timedelta(days=number) for number in range(1, DAYS + 1)]
    chosen = [midnight + timedelta(minutes=minutes) for midnight in midnights for minutes in (-1, 1, 14)]
    return sorted([*chosen, end, *(start + rng.random() * (end - start) for _ in range(CUTS - len(chosen) - 1))])


def live(start: datetime, seed: int, config: Settings) -> Iterator[tuple[int, Cut]]:
    """Live through 30 days: at each of the moments what has arrived is in the realtime tables, and a cut is stored."""
    rng = random.Random(seed)
    waiting = batches(start, rng)[::-1]
    with stored.connected(config, "realtime") as realtime, closing(database.connect("warehouse")) as warehouse:
        for number, moment in enumerate(moments(start, rng)):
            new: dict[str, list[Batch]] = {table: [] for table in CONTRACTS}
            while waiting and waiting[-1].committed <= moment:
                batch = waiting.pop()
                new[batch.table].append(batch)
            for table, arrived in new.items():
                commit(realtime, table, arrived)
            with warehouse, warehouse.cursor() as cursor:
                cut = incremental.store_cut(cursor, incremental.next_cut(cursor, (moment - GRACE).date()))
            yield number, cut
    assert not waiting


def test_whatever_the_cuts_an_event_in_time_is_booked_on_its_own_day_and_read_no_earlier(
    stack: Settings, tmp_path: Path
) -> None:
    with apart(stack, tmp_path) as config:
        cuts = [cut for _, cut in live(day_start(60), 1, config)]
        assert len({cut.run_date for cut in cuts}) == DAYS + 1
        with closing(database.connect("warehouse")) as connection, connection.cursor() as cursor:
            windows = [incremental.window(cursor, "job", cuts[-1])]
            for since in random.Random(2).sample(cuts, 5):
                incremental.advance(cursor, "job", since)
                windows.append(incremental.window(cursor, "job", cuts[-1]))
        with stored.connected(config, "realtime") as realtime:
            for table, contract in CONTRACTS.items():
                own = f"({contract.time} at time zone 'UTC')::date"
                query = f"select distinct ingest_batch_id as batch, {own} as day from {table} order by batch"
                days = stored.rows(realtime, query)
                for window in windows:
                    after, _ = window.open(table)
                    bookings = window.bookings(table)
                    unread = [row for row in days if row["batch"] > after]
                    assert unread
                    for row in unread:
                        assert row["day"] >= next(day for last, day in bookings if row["batch"] <= last)
                ends = [cut.batches[table] for cut in cuts]
                assert days[-1]["batch"] == ends[-1]
                assert all(row["day"] <= cuts[bisect_left(ends, row["batch"])].run_date for row in days)


def test_three_loads_among_200_cuts_make_the_same_warehouse_as_one_load_to_one_cut(
    stack: Settings, schedule: Schedule, tmp_path: Path, soak: bool
) -> None:
    if not soak:
        pytest.skip("long: --soak runs it")
    with apart(stack, tmp_path) as config:
        for number, cut in live(day_start(DAYS), 3, config):
            if number in (70, 140):
                schedule("run", "batch", f"--run-date={cut.run_date}")
        schedule("run", "batch")
        shown = schedule("rebuild", "--fresh", "--compare").stdout
    assert "one new cut" in shown
