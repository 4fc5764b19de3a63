"""How far ingestion of a table has come: its head, the row that says what is stored."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from psycopg2.extensions import cursor as Cursor

LATENCY_SECONDS = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 60.0)
"""Upper bounds of the ledger's latency buckets, event time to ledger row; the last bucket is open."""


@dataclass(frozen=True)
class Head:
    """How far ingestion of a table has come: the last ledger batch, and the next offset of each partition.

    `passed_offsets` has, by partition, a stretch of offsets that no message has (see `pass_over`): where the head was when
    that was noted, and the next offset to read.
    """

    epoch: int
    last_batch: int
    end_offsets: dict[int, int]
    passed_offsets: dict[int, Sequence[int]] = field(default_factory=dict)

    def following(self, partition: int) -> int | None:
        """The next offset to read of a partition; None for a new one."""
        end = self.end_offsets.get(partition)
        return None if end is None else following(end, self.passed_offsets.get(partition))


def following(end: int, passed: Sequence[int] | None) -> int:
    """The next offset to read when the head ends at `end`: a passed stretch counts only while the end lies in it."""
    return passed[1] if passed and passed[0] <= end <= passed[1] else end


_READ = "select epoch, last_batch, end_offsets, passed_offsets from ops.ingest_heads where source_table = %s"

_LOCKED = (
    "select epoch, last_batch, end_offsets, passed_offsets from ops.ingest_heads where source_table = %s for update"
)


def read_head(cursor: Cursor, table: str, *, lock: bool = False) -> Head:
    """The head of a table; with `lock` no one else moves it before the transaction ends."""
    cursor.execute(_LOCKED if lock else _READ, [table])
    row = cursor.fetchone()
    if row is None:
        raise LookupError(f"ops.ingest_heads has no row for {table}: the realtime schema isn't up to date")
    epoch, last_batch, *offsets = row
    return Head(epoch, last_batch, *({int(partition): found for partition, found in one.items()} for one in offsets))


def pass_over(cursor: Cursor, table: str, head: Head, upto: Mapping[int, int]) -> None:
    """Note that there is no message from the head up to these offsets, so that it is known after Kafka has removed them.

    The next batch still begins at the head, and counts them as gaps. The note needs no lock on the head: it stays true
    whoever writes meanwhile.
    """
    passed = {partition: [head.end_offsets[partition], offset] for partition, offset in upto.items()}
    cursor.execute(
        "update ops.ingest_heads set passed_offsets = passed_offsets || %s where source_table = %s",
        [json.dumps(passed), table],
    )
