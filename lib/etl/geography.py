"""The dimension of countries, and which of them occur in new events."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lib.etl.events import select_events, unread
from lib.schemas import CONTRACTS
from lib.warehouse.load import Load
from lib.warehouse.read import read_realtime
from lib.warehouse.scd2 import Dimension

GEOGRAPHY = Dimension(table="dim_geography", key=("country",), type2=())


def read_countries(load: Load) -> DataFrame:
    """Which countries occur in new events. Grain: one row per country, with the own day of its first event here."""
    events = select_events(
        load, {table: "country" for table in CONTRACTS}, {table: unread(load, table) for table in CONTRACTS}
    )
    query = f"select country, min(day) as first_date from ({events}) as events where country <> '' group by country"
    return read_realtime(load, query)


def countries(found: DataFrame) -> DataFrame:
    """Rows of `dim_geography`. Grain: one row per country that occurs, from the day of its first event on."""
    return found.select(
        "country",
        F.col("first_date").alias("effective_date"),
        F.lit(None).cast("date").alias("end_date"),
        F.lit(True).alias("is_current"),
        "first_date",
    )
