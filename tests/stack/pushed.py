"""Sessions whose catalogs push nothing down to PostgreSQL: Spark computes everything itself, and compiles its queries."""

import pytest

from lib import spark


def push_nothing(patch: pytest.MonkeyPatch) -> None:
    """From now on, in what is patched."""
    pushing = spark.catalogs
    off = {
        f"spark.sql.catalog.{name}.pushDown{what}": "false"
        for name in ("realtime", "warehouse")
        for what in ("Predicate", *spark.PUSHED)
    }
    patch.setattr(spark, "catalogs", lambda: pushing() | off)
    patch.setattr(spark, "INTERPRETED", {})
