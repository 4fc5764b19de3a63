"""What a saver's report says of its ledger rows."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest

from lib.ledger.receipt import Receipt, percentile

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def batch(number: int, second: float, **partitions: tuple[int, int, int, int]) -> dict[str, Any]:
    """A ledger row; per partition `p0=(start, written, duplicates, dead)`, offsets without gaps."""
    names = {name[1:]: counts for name, counts in partitions.items()}
    counts = {
        name: {"rows_in": sum(rest), "rows_written": rest[0], "duplicates": rest[1], "dead_letters": rest[2]}
        for name, (_, *rest) in names.items()
    }
    totals = pd.DataFrame(counts.values()).sum().to_dict()
    return {
        "ingest_batch_id": number,
        "committed_at": NOON + timedelta(seconds=second),
        "start_offsets": {name: start for name, (start, *_) in names.items()},
        "end_offsets": {name: start + sum(rest) for name, (start, *rest) in names.items()},
        "by_partition": counts,
        **totals,
    }


def receipt(*batches: dict[str, Any]) -> Receipt:
    none = pd.DataFrame()
    return Receipt("transactions", "q", "published", pd.DataFrame(batches), none, none, {}, 0, 0)


def test_the_receipt_of_a_partition_goes_from_its_first_offset_to_its_last() -> None:
    run = receipt(batch(7, 0, p0=(10, 5, 0, 0), p1=(3, 1, 1, 1)), batch(8, 1, p0=(15, 2, 0, 1)))
    rows = run.partitions().set_index("partition")
    assert rows.loc[0].to_dict() == {
        **{"start": 10, "end": 18, "rows_in": 8, "rows_written": 7},
        **{"duplicates": 0, "dead_letters": 1, "offset_gaps": 0},
    }
    assert rows.loc[1].to_dict() == {
        **{"start": 3, "end": 6, "rows_in": 3, "rows_written": 1},
        **{"duplicates": 1, "dead_letters": 1, "offset_gaps": 0},
    }


def test_offsets_that_no_message_had_show_as_gaps() -> None:
    later = batch(8, 1, p0=(17, 2, 0, 0))
    run = receipt(batch(7, 0, p0=(10, 5, 0, 0)), later)
    assert run.partitions()["offset_gaps"].tolist() == [2]


def test_a_run_without_messages_has_an_empty_receipt() -> None:
    run = receipt()
    assert run.partitions().empty
    assert run.over_time().empty
    assert list(run.over_time()) == ["time", "rows_written", "duplicates", "dead_letters"]


def test_rates_are_per_second_whatever_the_slice_and_quiet_slices_are_zero() -> None:
    run = receipt(batch(1, 0, p0=(0, 50, 0, 0)), batch(2, 150, p0=(50, 100, 0, 0)), batch(3, 300, p0=(150, 20, 10, 0)))
    rates = run.over_time().set_index("time")
    assert (rates.index.to_series().diff().dropna() == timedelta(seconds=5)).all()
    assert rates["rows_written"].sum() * 5 == pytest.approx(170)
    assert rates["rows_written"].iloc[0] == 10
    assert rates["rows_written"].iloc[1] == 0
    assert rates["duplicates"].iloc[-1] == 2


@pytest.mark.parametrize(("share", "bound"), [(0.5, 100), (0.9, 200), (0.91, float("inf")), (1.0, float("inf"))])
def test_a_percentile_is_the_upper_bound_of_its_bucket(share: float, bound: float) -> None:
    assert percentile([{"0.1": 50, "0.2": 20}, {"0.2": 20, "inf": 10}], share) == bound


def test_without_events_there_is_no_percentile() -> None:
    assert percentile([], 0.95) is None
    assert percentile([{}], 0.95) is None


def test_batches_follow_on_by_their_offsets_and_not_by_their_numbers() -> None:
    first, later = batch(7, 0, p0=(10, 5, 0, 0)), batch(9, 1, p0=(15, 2, 0, 1), p1=(3, 1, 0, 0))
    assert receipt(first, later).follow_on()
    assert not receipt(first, batch(8, 1, p0=(16, 2, 0, 1))).follow_on()
    assert not receipt(later, first).follow_on()
    assert replace(receipt(first), batches=pd.DataFrame()).follow_on()


def test_what_ties_is_a_table_and_what_does_not_is_named() -> None:
    run = replace(receipt(batch(7, 0, p0=(10, 5, 1, 2))), stored_rows=5)
    run = replace(run, batches=run.batches.assign(offset_gaps=0))
    assert run.check()[["expected", "found"]].values.tolist() == [["8", "8"], ["5", "5"], ["0", "0"], ["True", "True"]]
    with pytest.raises(AssertionError, match="rows in the table doesn't hold: 5 and 4"):
        replace(run, stored_rows=4).check()
    with pytest.raises(AssertionError, match="dead letters doesn't hold: 9 and 8"):
        replace(run, batches=run.batches.assign(rows_in=9)).check()
    with pytest.raises(AssertionError, match="by partition doesn't hold: 3 and 0"):
        replace(run, batches=run.batches.assign(offset_gaps=3)).check()
    gap = pd.concat([run.batches, pd.DataFrame([batch(8, 1, p0=(20, 0, 0, 0))]).assign(offset_gaps=2)])
    with pytest.raises(AssertionError, match="begins where the one before it ended doesn't hold"):
        replace(run, batches=gap).check()
