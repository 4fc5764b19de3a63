"""The product dimension: category as type 2, and the votes of the open day that later loads need."""

from datetime import date

from psycopg2 import sql
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from lib.warehouse import scd2
from lib.warehouse.load import Load
from lib.warehouse.scd2 import Dimension

MENTION = ("product_id", "category", "time", "id", "line", "first_date", "booked")
"""What is known of a product in an event or order line: its place in the order of votes is (time, id, line)."""

TOTAL = "All"
"""What the total of all categories is called, so that no category may be."""

PRODUCTS = Dimension(table="dim_products", key=("product_id",), type2=("category",), type1=("first_booked_date",))


def product_versions(mentions: DataFrame, settled_before: date, run_date: date) -> DataFrame:
    """Versions of the products in `mentions` from the current one on; the input of `scd2.apply`.

    A product begins on the day of its first event, with the earliest category of its first booked day, else `Unknown`;
    while that day is open, this changes in place. The last category of each booked day before `run_date` takes effect on
    the following day. `settled_before` is the first day that no load has settled.

    Parameters
    ----------
    mentions
        One row per event or order line that counts (`first_and_last`): `product_id`, `category`, `time`, `id`,
        `line`, `first_date`, `booked`; beside it the current version, if there is one (`known_…`).
    """
    of_product = Window.partitionBy("product_id")
    known_from, known_booked = F.col("known_effective_date"), F.col("known_first_booked_date")
    first_booked = F.coalesce(known_booked, F.min("booked").over(of_product))
    begins = F.coalesce(known_from, F.min("first_date").over(of_product))
    is_first_open = known_booked.isNull() | (known_booked >= F.lit(settled_before))
    day = votes(mentions).select(
        "product_id",
        first_booked.alias("first_booked_date"),
        F.when(known_from.isNotNull(), scd2.change(known_from, F.lit(True), category=F.col("known_category"))).alias(
            "known"
        ),
        F.when(
            is_first_open & (F.col("booked") == first_booked),
            scd2.change(begins, F.lit(False), category=F.coalesce("first", F.lit("Unknown"))),
        ).alias("beginning"),
        F.when(
            (F.col("booked") < F.lit(run_date)) & F.col("last").isNotNull(),
            scd2.change(F.date_add("booked", 1), F.lit(False), category=F.col("last")),
        ).alias("voted"),
    )
    changes = day.select("product_id", "first_booked_date", F.inline(F.array("known", "beginning", "voted")))
    once = changes.where("effective_date is not null").distinct()
    return scd2.collapse(once, key=PRODUCTS.key, attributes=PRODUCTS.type2)


def votes(mentions: DataFrame) -> DataFrame:
    """The category of each product and day. Grain: one row per product and booked day, with the current version.

    An event that carries a category votes on its own day, unless it is late. `first` is the earliest vote of the day by
    (time, id, line), `last` the latest; `All`, the name of the total, counts as `Unknown`.
    """
    order = F.when(F.expr("category <> '' and first_date = booked"), F.struct("time", "id", "line"))
    category = F.when(F.col("category") == TOTAL, "Unknown").otherwise(F.col("category"))
    known = [name for name in mentions.columns if name.startswith("known_")]
    return mentions.groupBy("product_id", "booked", *known).agg(
        F.min_by(category, order).alias("first"),
        F.max_by(category, order).alias("last"),
        F.min("first_date").alias("first_date"),
    )


def has_votes(load: Load) -> bool:
    """Whether votes of the open day are kept; without, all of it has to be read again."""
    return bool(load.query("select exists (select from ops.product_votes)").iloc[0, 0])


def with_kept_votes(load: Load, staged: str) -> DataFrame:
    """The staged mentions, and the votes that are kept of days that weren't settled before this load.

    When the open day ends, these are the votes of every product: its category is due. Else those of the staged products.
    """
    mentions = load.staged(staged).select(*MENTION).coalesce(1)
    if not has_votes(load):
        return mentions
    votes = load.session.table("warehouse.ops.product_votes").where(
        F.col("booked") >= F.lit(load.window.settled_before)
    )
    kept = votes.withColumn("first_date", F.col("booked")).select(*MENTION).coalesce(1)
    if not load.window.ends_a_day:
        kept = kept.join(mentions.select("product_id").distinct(), "product_id", "left_semi").select(*MENTION)
    return mentions.union(kept)


_ONLY_FIRST_AND_LAST = """
delete from ops.product_votes as v
where exists (
    select from ops.product_votes as o
    where (o.product_id, o.booked) = (v.product_id, v.booked) and (o.time, o.id, o.line) < (v.time, v.id, v.line)
) and exists (
    select from ops.product_votes as o
    where (o.product_id, o.booked) = (v.product_id, v.booked) and (o.time, o.id, o.line) > (v.time, v.id, v.line)
)
"""


def keep_votes(load: Load, staged: str) -> None:
    """Keep the first and the last vote of each product on the day that this load leaves open, and no older ones."""
    load.execute("delete from ops.product_votes where booked < %s", load.cut.run_date)
    load.execute(
        sql.SQL(
            "insert into ops.product_votes (product_id, category, time, id, line, booked)"
            " select product_id, category, time, id, line, booked from staging.{}"
            " where category <> '' and first_date = booked and booked >= %s on conflict do nothing"
        ).format(sql.Identifier(staged)),
        load.cut.run_date,
    )
    load.execute(_ONLY_FIRST_AND_LAST)


def first_and_last(mentions: DataFrame) -> DataFrame:
    """The mentions that count. Grain: one row per event or order line.

    Of each product, booked day and kind (whether it votes on the category) the first and the last by (time, id, line):
    nothing else follows from the others.
    """
    is_vote = F.coalesce(F.expr("category <> '' and first_date = booked"), F.lit(False))
    place, row = F.struct("time", "id", "line"), F.struct(*MENTION)
    ends = mentions.groupBy("product_id", "booked", is_vote.alias("is_vote")).agg(
        F.min_by(row, place).alias("first"), F.max_by(row, place).alias("last")
    )
    return ends.select(F.inline(F.array_distinct(F.array("first", "last"))))
