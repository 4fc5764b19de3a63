"""What several analytics jobs share: ratios, quintiles, and the days that have to be computed again."""

from datetime import date

from pyspark.sql import Column, Window
from pyspark.sql import functions as F

from lib.warehouse.fact import Fact, stale_days
from lib.warehouse.load import Load


def on_stale_days(load: Load, *facts: Fact) -> Column:
    """The condition on `date_id` of a fact that finds what has to be computed again, whole days.

    That is the days with rows of these facts above the job's watermark, and the days of products whose first version has
    changed in place since; for a first load all days.
    """
    since = load.window.since
    if since is None:
        return F.lit(True)
    days = set().union(*(stale_days(load, fact, since) for fact in facts))
    return F.col("date_id").isin(sorted(days))


def date_id(day: date) -> int:
    """The key of a day in `dim_date`: its digits, yyyymmdd."""
    return day.year * 10_000 + day.month * 100 + day.day


def ratio(numerator: str, denominator: str) -> Column:
    """numerator ÷ denominator as a double; NULL where the denominator is 0."""
    return F.when(F.col(denominator) != 0, F.col(numerator).cast("double") / F.col(denominator).cast("double"))


def quintile(worst_first: Column, value: str) -> Column:
    """The quintile, 1 to 5, of a value's mid-rank over all rows, in whole numbers: (5·(2·(rank − 1) + ties) + 2n − 1) ÷ 2n.

    `worst_first` is the order, `value` finds the ties. Equal values get the same quintile.
    """
    rank = F.rank().over(Window.orderBy(worst_first)).cast("long")
    ties = F.count("*").over(Window.partitionBy(value))
    n = F.count("*").over(Window.partitionBy())
    return F.floor((5 * (2 * (rank - 1) + ties) + 2 * n - 1) / (2 * n)).cast("int")
