"""What must hold of the ledger of a realtime table, whatever happened to whoever wrote it."""

from bisect import bisect_left
from collections import Counter
from itertools import accumulate
from typing import Any

import stored

COUNTS = ("rows_in", "rows_written", "duplicates", "dead_letters")


def assert_whole(connection: stored.Connection, table: str) -> list[dict[str, Any]]:
    """Check each batch, or range of batches, against the one before, the head, the rows and the dead letters, while nobody
    writes.

    Returns the ledger's rows in order.
    """
    query = "select * from ops.ingest_batches where source_table = %s order by ingest_batch_id"
    batches = stored.rows(connection, query, table)
    numbers = [batch["ingest_batch_id"] for batch in batches]
    assert numbers == list(accumulate(batch["batches"] for batch in batches))
    epochs = [batch["epoch"] for batch in batches]
    assert epochs == sorted(epochs), "a run wrote after its successor"
    ends: dict[str, int] = {}
    for batch in batches:
        starts = batch["start_offsets"]
        assert ends.items() <= starts.items(), (
            f"batch {batch['ingest_batch_id']} begins elsewhere than its predecessor ended"
        )
        ends = batch["end_offsets"]
        assert sum(ends.values()) - sum(starts[name] for name in ends) == batch["rows_in"] + batch["offset_gaps"]
        assert batch["rows_in"] == batch["rows_written"] + batch["duplicates"] + batch["dead_letters"]
        for name in COUNTS:
            assert batch[name] == sum(counts[name] for counts in batch["by_partition"].values())
    (head,) = stored.rows(connection, "select * from ops.ingest_heads where source_table = %s", table)
    assert (head["last_batch"], head["end_offsets"]) == (max(numbers, default=0), ends)
    assert _per_row(numbers, connection, table) == {
        b["ingest_batch_id"]: b["rows_written"] for b in batches if b["rows_written"]
    }
    assert _per_row(numbers, connection, "ops.dead_letters", "source_table = %s", table) == {
        b["ingest_batch_id"]: b["dead_letters"] for b in batches if b["dead_letters"]
    }
    return batches


def _per_row(
    numbers: list[int], connection: stored.Connection, table: str, where: str = "true", *values: str
) -> dict[int, int]:
    """How many rows of a table each row of the ledger covers, by the last batch of the latter."""
    query = f"select ingest_batch_id, count(*) as n from {table} where {where} group by ingest_batch_id"
    counts: Counter[int] = Counter()
    for row in stored.rows(connection, query, *values):
        counts[numbers[bisect_left(numbers, row["ingest_batch_id"])]] += row["n"]
    return dict(counts)
