"""The dimension of days."""

from datetime import date

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

FIRST_DAY = date(2000, 1, 1)


def calendar(session: SparkSession, run_date: date) -> DataFrame:
    """Rows of `dim_date`. Grain: one row per day from 2000-01-01 to the end of the year after `run_date`.

    `day_of_week` is 1 (Monday) to 7, `week_of_year` the ISO week.
    """
    bounds = session.range(1, numPartitions=1).select(
        F.explode(F.sequence(F.lit(FIRST_DAY), F.lit(date(run_date.year + 1, 12, 31)))).alias("date")
    )
    weekday = F.weekday("date") + 1
    return bounds.select(
        (F.year("date") * 10000 + F.month("date") * 100 + F.day("date")).alias("date_id"),
        "date",
        F.year("date").alias("year"),
        F.quarter("date").alias("quarter"),
        F.month("date").alias("month"),
        F.day("date").alias("day"),
        weekday.alias("day_of_week"),
        F.weekofyear("date").alias("week_of_year"),
        (weekday >= 6).alias("is_weekend"),
    )
