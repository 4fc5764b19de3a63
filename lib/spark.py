"""Spark sessions: thin clients of the two long-lived Spark Connect servers."""

from pyspark.sql import SparkSession
from pyspark.sql.connect.client.retries import DefaultPolicy

from lib.settings import settings

RETRY_SECONDS = 5


def speed() -> SparkSession:
    """A session on the server of the speed layer, for streaming."""
    return connect(settings().spark_speed)


def batch() -> SparkSession:
    """A session on the server of the batch layer, for ETL and analytics."""
    return connect(settings().spark_batch)


def connect(url: str) -> SparkSession:
    """A session on the Spark Connect server at `url`; a server that is gone is noticed within seconds, not minutes."""
    session: SparkSession = SparkSession.builder.remote(url).getOrCreate()
    session.client.set_retry_policies(
        [DefaultPolicy(max_retries=6, initial_backoff=100, backoff_multiplier=3.0, max_backoff=RETRY_SECONDS * 1000 // 4)]
    )
    return session
