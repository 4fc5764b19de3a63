"""Prometheus' side: what it asks, its rules and their runbooks, and what `make up` starts."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY
from prometheus_client.core import Metric

from lib.ledger import jobs, metrics
from lib.settings import ROOT, Settings
from lib.stack import lifecycle, programs
from serving.api import answers, cache, live

FOLDER = ROOT / "deploy" / "prometheus"
OF_THE_API = (answers, cache, live)
UNPACKED = ROOT / ".tools" / "prometheus" / "usr" / "bin"
SUFFIXES = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}


def load(name: str) -> Any:
    """A file of the folder."""
    return yaml.safe_load((FOLDER / name).read_text())


def rules(name: str) -> list[dict[str, Any]]:
    """The rules of a file."""
    return [rule for group in load(name)["groups"] for rule in group["rules"]]


RECORDED = {rule["record"]: rule["expr"] for rule in rules("recording.yml")}
ALERTS = {rule["alert"]: rule for rule in rules("alerts.yml")}
TESTS = [test for name in ("tests.yml", "tests_by_day.yml") for test in load(name)["tests"]]


def samples(families: list[Metric]) -> set[str]:
    """The names under which Prometheus stores families of metrics."""
    return {f"{family.name}{suffix}" for family in families for suffix in SUFFIXES.get(family.type, [""])}


def exported() -> set[str]:
    """What the two exporters offer."""
    line = [*metrics.counters({}), *metrics.histograms({}), *metrics.gauges({}, {}), *metrics.disk(ROOT)]
    api = [family for family in REGISTRY.collect() if family.name.startswith("globalmart_api_")]
    assert OF_THE_API and api
    return {"globalmart_up", "up"} | samples([*line, *jobs.gauges(jobs.Standings(), "@daily"), *api])


def asked(expression: str) -> set[str]:
    """The metrics that an expression asks for."""
    return set(re.findall(r"[\w:]*globalmart_[\w:]*|\bup\b", re.sub(r'"[^"]*"', "", expression)))


def anchors(page: Path) -> set[str]:
    """Where links to sections of a page lead, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def program(name: str) -> str:
    """A program of Prometheus, on PATH or unpacked in `.tools/prometheus`; without it, the test is skipped."""
    found = shutil.which(name) or shutil.which(name, path=UNPACKED)
    if not found:
        pytest.skip(f"{name} is neither on PATH nor in .tools/prometheus; Debian's prometheus packages have it")
    return found


def run(*command: str) -> str:
    """What a program says, when all is well."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


# --- the rules


@pytest.mark.parametrize("name", [*RECORDED, *ALERTS])
def test_rule_asks_only_for_what_is_exported_or_recorded(name: str) -> None:
    expression = RECORDED[name] if name in RECORDED else ALERTS[name]["expr"]
    known = exported() if name in RECORDED else exported() | set(RECORDED)
    assert asked(expression) and asked(expression) <= known


def test_names_of_rules_come_once_and_recorded_ones_say_what_was_done() -> None:
    assert len(RECORDED) == len(rules("recording.yml")) and len(ALERTS) == len(rules("alerts.yml"))
    assert [name for name in RECORDED if not re.fullmatch(r"([a-z_]+:)?globalmart_[a-z_]+:[a-z0-9_]+", name)] == []


@pytest.mark.parametrize("alert", ALERTS.values(), ids=lambda alert: alert["alert"])
def test_alert_has_a_severity_a_summary_and_a_runbook_that_exists(alert: dict[str, Any]) -> None:
    assert alert["labels"].keys() == {"severity"}
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
    assert alert["annotations"].keys() == {"summary", "runbook"}
    page, _, anchor = alert["annotations"]["runbook"].partition("#")
    assert anchor in anchors(ROOT / page)
    assert set(re.findall(r"\$labels\.(\w+)", alert["annotations"]["summary"])) <= {"table", "part", "job"}


def test_the_page_lists_each_alert_with_its_severity() -> None:
    rows = re.findall(r"^\| `([A-Z]\w+)` \| (\w+) \|", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
    assert dict(rows) == {name: alert["labels"]["severity"] for name, alert in ALERTS.items()}
    assert len(rows) == len(ALERTS)


def test_the_page_lists_each_metric() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    own = {name.removesuffix("_bucket") for name in exported() if not name.endswith(("_sum", "_count"))} - {"up"}
    assert [name for name in sorted(own) if f"`{name.removeprefix('globalmart_')}" not in page] == []


@pytest.mark.parametrize("name", ALERTS)
def test_alert_has_a_test_that_fires_and_one_that_is_silent(name: str) -> None:
    blocks = [
        [case["exp_alerts"] for case in test.get("alert_rule_test", []) if case["alertname"] == name] for test in TESTS
    ]
    assert any(any(block) for block in blocks if block)
    assert any(not any(block) for block in blocks if block)


def test_promtool_takes_configuration_and_rules() -> None:
    said = run(program("promtool"), "check", "config", str(FOLDER / "prometheus.yml"))
    assert f"{len(RECORDED)} rules found" in said and f"{len(ALERTS)} rules found" in said
    run(program("promtool"), "check", "rules", *(str(FOLDER / name) for name in load("prometheus.yml")["rule_files"]))


@pytest.mark.parametrize("name", ["tests.yml", "tests_by_day.yml"])
def test_promtool_finds_that_alerts_fire_and_are_silent_when_they_should(name: str) -> None:
    run(program("promtool"), "test", "rules", str(FOLDER / name))


# --- who is told


def test_amtool_takes_the_configuration_of_alertmanager() -> None:
    assert "SUCCESS" in run(program("amtool"), "check-config", str(FOLDER / "alertmanager.yml"))


@pytest.mark.parametrize(
    ("severity", "receiver"), [("critical", "at-once"), ("warning", "today"), ("info", "page-only")]
)
def test_alert_goes_where_its_severity_says(severity: str, receiver: str) -> None:
    config = f"--config.file={FOLDER / 'alertmanager.yml'}"
    said = run(program("amtool"), "config", "routes", "test", config, f"severity={severity}")
    assert said.split()[0] == receiver


def test_alertmanager_names_only_receivers_and_alerts_that_there_are_and_holds_no_secret() -> None:
    config = load("alertmanager.yml")
    route, names = config["route"], {receiver["name"] for receiver in config["receivers"]}
    assert {route["receiver"], *(one["receiver"] for one in route["routes"])} == names
    matchers = [text for rule in config["inhibit_rules"] for side in rule if side != "equal" for text in rule[side]]
    named = {name for text in matchers if "alertname" in text for name in re.findall(r"\b[A-Z]\w+", text)}
    assert named <= ALERTS.keys()
    assert not re.search(r"(?m)^\s*-?\s*(api_url|url|password|routing_key|credentials|token)\s*:", str(config))
    assert config["global"]["slack_api_url_file"]


# --- what is asked, and what `make up` starts


def targets(config: Any) -> dict[str, str]:
    """The address of each job."""
    return {job["job_name"]: target for job in config["scrape_configs"] for target in _addresses(job)}


def _addresses(job: dict[str, Any]) -> list[str]:
    return [target for group in job["static_configs"] for target in group["targets"]]


def test_prometheus_asks_where_things_are_by_default() -> None:
    ports = {"globalmart": "metrics", "api": "api", "prometheus": "prometheus"}
    defaults = {job: Settings.model_fields[f"{name}_port"].default for job, name in ports.items()}
    assert targets(load("prometheus.yml")) == {job: f"localhost:{port}" for job, port in defaults.items()}


def test_rules_ask_for_jobs_that_are_scraped() -> None:
    named = {job for alert in ALERTS.values() for job in re.findall(r'up\{job="(\w+)"', alert["expr"])}
    assert named and named <= targets(load("prometheus.yml")).keys()


@pytest.fixture
def config(tmp_path: Path) -> Settings:
    """Settings with ports and a folder of their own, with a space in its name."""
    ports = {"metrics_port": 1001, "api_port": 1002, "prometheus_port": 1003}
    return Settings().model_copy(update={**ports, "data_dir": tmp_path / "my data"})


def test_the_stack_s_configuration_has_its_own_ports_and_the_same_rules(config: Settings) -> None:
    file = programs.write_prometheus(config)
    written = yaml.safe_load(file.read_text())
    assert targets(written) == {"globalmart": "localhost:1001", "api": "localhost:1002", "prometheus": "localhost:1003"}
    assert written["rule_files"] == [str(FOLDER / "recording.yml"), str(FOLDER / "alerts.yml")]
    assert written["global"] == load("prometheus.yml")["global"]


def test_promtool_takes_the_stack_s_configuration(config: Settings) -> None:
    file = programs.write_prometheus(config)
    assert f"{len(ALERTS)} rules found" in run(program("promtool"), "check", "config", str(file))


def test_it_runs_on_loopback_with_its_data_in_the_folder_of_data_and_forgets(
    config: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"bin/{name}")
    found, *options = programs.PROGRAMS["prometheus"][1](config)
    assert found == "bin/prometheus"
    assert f"--config.file={config.data_dir}/prometheus/prometheus.yml" in options
    assert f"--storage.tsdb.path={config.data_dir}/prometheus/data" in options
    assert "--web.listen-address=127.0.0.1:1003" in options
    assert {option.partition("=")[0] for option in options} >= {
        "--storage.tsdb.retention.time",
        "--storage.tsdb.retention.size",
    }


@pytest.mark.parametrize("is_installed", [True, False])
def test_make_up_starts_it_where_it_is_installed_and_else_says_what_is_missing(
    config: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_installed: bool
) -> None:
    started: list[str] = []
    monkeypatch.setattr(shutil, "which", lambda name: f"bin/{name}" if is_installed else None)
    monkeypatch.setattr(lifecycle, "up", lambda config, names: started.extend(names))
    lifecycle._make_up(config)
    said = capsys.readouterr().out
    assert started == [name for name in lifecycle.LIVE if name != "prometheus" or is_installed]
    assert ("http://localhost:1003/alerts" in said) is is_installed
    assert (programs.PROMETHEUS_MISSING in said) is not is_installed


def test_without_it_the_program_ends_with_a_line(config: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match=r"^globalmart: Prometheus isn't installed"):
        programs.PROGRAMS["prometheus"][1](config)


def test_the_process_manager_knows_each_program() -> None:
    known = re.findall(r"^\[program:([\w-]+)\]", (ROOT / "deploy" / "supervisord.conf").read_text(), re.MULTILINE)
    assert sorted(known) == sorted(programs.PROGRAMS)
