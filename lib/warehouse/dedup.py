"""Deduplication by key: first within a batch, then against the table by the batch's own keys only."""

from collections.abc import Sequence

from psycopg2 import sql
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F


def first_of_each(frame: DataFrame, keys: Sequence[str], order: Sequence[str]) -> DataFrame:
    """One row per key: the first by `order`, NULLs first. Which row that is doesn't depend on the input's order.

    Rows that agree in every column of `order` have to be equal, or any of them is taken.
    """
    ranked = frame.withColumn("_rank", F.row_number().over(Window.partitionBy(*keys).orderBy(*order)))
    return ranked.where("_rank = 1").drop("_rank")


def unless_known(target: str, staged: str, keys: Sequence[str]) -> sql.Composable:
    """The SQL condition that keeps rows of `staged` whose key isn't in `target`.

    The target is probed by its index with the candidates' keys, so that the cost follows the batch and not the table.
    """
    matches = sql.SQL(" and ").join(
        sql.SQL("known.{key} = {staged}.{key}").format(key=sql.Identifier(key), staged=sql.Identifier(staged))
        for key in keys
    )
    return sql.SQL("not exists (select from {} as known where {})").format(sql.Identifier(*target.split(".")), matches)
