"""The process that Spark's Python workers are forked from: what a saver's worker imports is loaded once, not by each."""

import gc

import pyspark.worker  # noqa: F401
from pyspark.daemon import manager

from lib.ingest import stream  # noqa: F401

if __name__ == "__main__":
    # a worker collects garbage after each task, and would look through all that is imported each time
    gc.freeze()
    manager()
