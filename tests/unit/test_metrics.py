"""Metrics without a stack: buckets as Prometheus counts them, and the port that it is told."""

import re
from collections import Counter

import yaml
from hypothesis import given
from hypothesis import strategies as st

from lib.ledger import metrics
from lib.ledger.totals import Totals
from lib.schemas import REASONS
from lib.settings import ROOT, Settings


def test_buckets_count_everything_up_to_their_bound() -> None:
    counts = Counter({0.1: 2, 0.5: 3, float("inf"): 1})
    assert metrics.cumulative(counts, (0.1, 0.2, 0.5)) == [("0.1", 2), ("0.2", 2), ("0.5", 5), ("+Inf", 6)]


@given(st.dictionaries(st.sampled_from([0.1, 0.3, 7.0, float("inf")]), st.integers(0, 9)))
def test_buckets_never_fall_and_end_with_all_of_it(counts: dict[float, int]) -> None:
    found = [number for _, number in metrics.cumulative(Counter(counts), (0.1, 0.2, 0.3, 5.0))]
    assert found == sorted(found)
    assert found[-1] == sum(counts.values())


def test_prometheus_asks_where_the_metrics_are_by_default() -> None:
    config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    [[target]] = [target["targets"] for job in config["scrape_configs"] for target in job["static_configs"]]
    assert target == f"localhost:{Settings.model_fields['metrics_port'].default}"


def test_alerts_ask_for_metrics_and_labels_that_there_are() -> None:
    alerts = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())
    rules = [rule for group in alerts["groups"] for rule in group["rules"]]
    families = [*metrics.counters({}), *metrics.histograms({}), *metrics.gauges({}, {})]
    offered = {"globalmart_up", *(family.name for family in families)}
    for rule in rules:
        asked = {name.removesuffix("_total") for name in re.findall(r"globalmart_\w+", rule["expr"])}
        assert asked and asked <= offered, rule["alert"]
        assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) < {"table", "part"}


def test_every_reason_of_a_dead_letter_is_counted_from_nothing_so_that_the_first_one_is_an_increase() -> None:
    [dead] = [family for family in metrics.counters({"t": Totals()}) if family.name == "globalmart_ingest_dead_letters"]
    counted = {sample.labels["reason"]: sample.value for sample in dead.samples}
    assert counted == dict.fromkeys(counted, 0)
    assert {*REASONS, "not_json", "rejected_by_database", "unprocessable"} == counted.keys()
