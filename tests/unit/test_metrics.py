"""Metrics without a stack: buckets as Prometheus counts them, what is due, the disk, and the API's cache."""

import os
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from prometheus_client.core import Metric

from lib.ledger import jobs, metrics
from lib.ledger.jobs import Standing, Standings
from lib.ledger.totals import Totals
from lib.schemas import REASONS
from serving.api.cache import FAILURES, Breaker

NIGHT = datetime(2026, 3, 1, 2, 0, 7, tzinfo=UTC)
"""When a nightly cycle began, a few seconds after it was due."""


def test_buckets_count_everything_up_to_their_bound() -> None:
    counts = Counter({0.1: 2, 0.5: 3, float("inf"): 1})
    assert metrics.cumulative(counts, (0.1, 0.2, 0.5)) == [("0.1", 2), ("0.2", 2), ("0.5", 5), ("+Inf", 6)]


@given(st.dictionaries(st.sampled_from([0.1, 0.3, 7.0, float("inf")]), st.integers(0, 9)))
def test_buckets_never_fall_and_end_with_all_of_it(counts: dict[float, int]) -> None:
    found = [number for _, number in metrics.cumulative(Counter(counts), (0.1, 0.2, 0.3, 5.0))]
    assert found == sorted(found)
    assert found[-1] == sum(counts.values())


def test_every_reason_of_a_dead_letter_is_counted_from_nothing_so_that_the_first_one_is_an_increase() -> None:
    [dead] = [family for family in metrics.counters({"t": Totals()}) if family.name == "globalmart_ingest_dead_letters"]
    counted = {sample.labels["reason"]: sample.value for sample in dead.samples}
    assert counted == dict.fromkeys(counted, 0)
    assert {*REASONS, "not_json", "rejected_by_database", "unprocessable"} == counted.keys()


def values(families: Iterable[Metric]) -> dict[tuple[str, ...], float]:
    """The samples by name and label."""
    return {
        (sample.name.removeprefix("globalmart_"), *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def test_a_good_run_is_expected_when_the_next_cycle_is_due_and_as_long_again_as_the_last_took() -> None:
    done = NIGHT + timedelta(minutes=40)
    found = values(jobs.gauges(Standings([Standing("etl/x", False, done, NIGHT)], NIGHT), "0 2 * * *"))
    due = datetime(2026, 3, 2, 2, 0, tzinfo=UTC)
    assert found == {
        ("job_last_run_failed", "etl/x"): 0,
        ("job_last_good_run_timestamp_seconds", "etl/x"): done.timestamp(),
        ("job_expected_timestamp_seconds", "etl/x"): (due + timedelta(minutes=40)).timestamp(),
        ("cycle_due_timestamp_seconds",): due.timestamp(),
    }


def test_what_runs_by_hand_or_at_its_own_time_is_never_expected() -> None:
    found = values(jobs.gauges(Standings([Standing("explore/x", True, NIGHT, None)], NIGHT), "0 2 * * *"))
    assert found["job_last_run_failed", "explore/x"] == 1
    assert found["job_last_good_run_timestamp_seconds", "explore/x"] == NIGHT.timestamp()
    assert not [key for key in found if "expected" in key[0]]


def test_before_the_first_cycle_nothing_is_due() -> None:
    assert values(jobs.gauges(Standings([Standing("etl/x")]), "0 2 * * *")) == {}


def test_the_disk_is_that_of_the_folder(tmp_path: Path) -> None:
    found = values(metrics.disk(tmp_path))
    assert 0 < found["disk_free_bytes",] < found["disk_size_bytes",]


def test_the_cache_is_down_while_it_is_left_alone() -> None:
    breaker = Breaker()
    for _ in range(FAILURES - 1):
        breaker.failed()
    assert REGISTRY.get_sample_value("globalmart_api_cache_up") == 1
    breaker.failed()
    assert REGISTRY.get_sample_value("globalmart_api_cache_up") == 0
    breaker.worked()
    assert REGISTRY.get_sample_value("globalmart_api_cache_up") == 1


def test_a_notebook_with_a_name_that_is_no_text_keeps_no_scrape_from_being_answered(tmp_path: Path) -> None:
    (tmp_path / "etl").mkdir()
    for name in (b"good.ipynb", b"\xff.ipynb", b"no notebook.txt"):
        (tmp_path / "etl" / os.fsdecode(name)).touch()
    assert jobs.notebook_names(tmp_path) == ["etl/good"]
    assert jobs.notebook_names(tmp_path / "gone") == []
