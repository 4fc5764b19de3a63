"""The product dimension: category as type 2. Computation only."""

from datetime import date

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lib import scd2
from lib.scd2 import Dimension

PRODUCTS = Dimension(table="dim_products", key=("product_id",), type2=("category",), type1=("first_booked_date",))


def votes(mentions: DataFrame) -> DataFrame:
    """The category of each product and day. Grain: one row per product and booked day with a vote.

    An event that carries a category votes on its own day, unless it is late. `first` is the earliest vote of the day by
    (time, id, line), `last` the latest; `All`, the name of the total, counts as `Unknown`.
    """
    order = F.struct("time", "id", "line")
    category = F.when(F.col("category") == "All", "Unknown").otherwise(F.col("category"))
    on_time = mentions.where("category <> '' and day = booked").withColumn("category", category)
    return on_time.groupBy("product_id", "booked").agg(
        F.min_by("category", order).alias("first"), F.max_by("category", order).alias("last")
    )


def product_versions(mentions: DataFrame, current: DataFrame, settled_before: date, run_date: date) -> DataFrame:
    """Versions of the products that occur in `mentions`; the input of `scd2.apply`.

    A product begins on the day of its first event, with the earliest category of its first booked day, else `Unknown`;
    while that day is open, this changes in place. The last category of each booked day before `run_date` takes effect on
    the following day. `current` has the current versions, `settled_before` is the first day that no load has settled.
    """
    day = votes(mentions)
    seen = mentions.groupBy("product_id").agg(F.min("booked").alias("booked"), F.min("day").alias("day"))
    known = current.select(
        "product_id", F.col("effective_date").alias("started"), F.col("first_booked_date").alias("known_booked")
    )
    is_young = F.col("known_booked").isNull() | (F.col("known_booked") >= F.lit(settled_before))
    firsts = seen.join(known, "product_id", "left").select(
        "product_id",
        F.coalesce("known_booked", "booked").alias("booked"),
        F.coalesce("started", "day").alias("effective_date"),
        is_young.alias("is_young"),
    )
    first_category = F.coalesce("first", F.lit("Unknown")).alias("category")
    beginnings = (
        firsts.where("is_young")
        .join(day.select("product_id", "booked", "first"), ["product_id", "booked"], "left")
        .select("product_id", "effective_date", first_category)
    )
    later = day.where(F.col("booked") < F.lit(run_date)).select(
        "product_id", F.date_add("booked", 1).alias("effective_date"), F.col("last").alias("category")
    )
    touched = current.join(seen.select("product_id"), "product_id", "left_semi")
    made = scd2.versions(beginnings.unionByName(later), touched, key=PRODUCTS.key, attributes=PRODUCTS.type2)
    return made.join(firsts.select("product_id", F.col("booked").alias("first_booked_date")), "product_id")
