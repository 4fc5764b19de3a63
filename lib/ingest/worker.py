"""The process that Spark's Python workers are forked from, so that what they import is loaded once, not by each of them."""

import gc

import pyspark.worker  # noqa: F401
from pyspark.daemon import manager

from lib.ingest import stream  # noqa: F401

if __name__ == "__main__":
    # a worker collects garbage after each task; without this it would go through all that is imported each time
    gc.freeze()
    manager()
