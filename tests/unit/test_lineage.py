"""Which jobs a load waits for: those that write what its front matter reads."""

from pathlib import Path

import pytest
import tiny_notebooks

from lib.jobs import lineage
from lib.settings import ROOT


def writes(folder: Path, name: str, table: str) -> Path:
    front = f"schedule: batch\nwrites: warehouse.{table}\ngrain: one"
    return tiny_notebooks.write(folder / f"{name}.ipynb", front)


@pytest.mark.parametrize(
    ("job", "upstream"),
    [
        ("etl/dim_date", []),
        ("etl/dim_customers", []),
        ("etl/fact_cart_events", ["etl/dim_date", "etl/dim_geography", "etl/dim_products", "etl/dim_customers"]),
        (
            "analytics/product_performance",
            ["etl/fact_sales", "etl/fact_product_views", "etl/dim_products", "etl/dim_date"],
        ),
        ("analytics/customer_segments", ["etl/dim_customers"]),
        ("template", ["etl/fact_sales", "etl/dim_geography"]),
    ],
)
def test_a_job_waits_for_exactly_what_it_reads(job: str, upstream: list[str]) -> None:
    folder = ROOT / "notebooks"
    assert lineage.writers(folder, lineage.declared(folder, job)["reads"]) == upstream


def test_a_table_that_no_notebook_writes_is_not_waited_for(tmp_path: Path) -> None:
    writes(tmp_path, "etl/a", "a")
    assert lineage.writers(tmp_path, ["warehouse.by_hand", "realtime.a", "kafka.a"]) == []


def test_of_two_writers_the_one_with_the_name_of_the_table_counts(tmp_path: Path) -> None:
    writes(tmp_path, "etl/a-Copy1", "a")
    writes(tmp_path, "etl/a", "a")
    assert lineage.writers(tmp_path, ["warehouse.a"]) == ["etl/a"]


def test_a_broken_notebook_writes_the_table_of_its_name(tmp_path: Path) -> None:
    writes(tmp_path, "etl/a", "a").write_text("{")
    assert lineage.writers(tmp_path, ["warehouse.a"]) == ["etl/a"]


def test_an_exploration_that_is_called_like_a_table_is_not_waited_for(tmp_path: Path) -> None:
    tiny_notebooks.write(tmp_path / "explore" / "a.ipynb", None)
    (tmp_path / "explore" / "b.ipynb").write_text("{")
    writes(tmp_path, "etl/b", "b")
    assert lineage.writers(tmp_path, ["warehouse.a", "warehouse.b"]) == ["etl/b"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("etl/nothing", "`begin` takes the name of the notebook"),
        ("a", "do you mean etl/a"),
        ("etl/aa", "do you mean etl/a"),
        ("explore/tour", "no front matter of a job: give `begin` what it `reads`"),
    ],
)
def test_a_name_that_no_job_has_is_refused_with_what_to_give_instead(tmp_path: Path, name: str, hint: str) -> None:
    tiny_notebooks.write(tmp_path / "explore" / "tour.ipynb", None)
    writes(tmp_path, "etl/a", "a")
    with pytest.raises(LookupError, match=hint):
        lineage.declared(tmp_path, name)
