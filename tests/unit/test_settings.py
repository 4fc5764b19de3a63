"""Settings: embedded parts and their URLs, and the sentences that name what contradicts."""

import os
import re
import socket
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from lib import spark
from lib.settings import ROOT, TOPICS, Settings, overridden, settings

SECRETS = {"GM_REALTIME_PASSWORD": "r", "GM_WAREHOUSE_PASSWORD": "w", "GM_ADMIN_PASSWORD": "a", "GM_SPARK_TOKEN": "t"}


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No `GM_*` but the secrets."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"GM_{name.upper()}", raising=False)
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


def read(monkeypatch: pytest.MonkeyPatch, env_file: Path | None = None, **variables: str) -> Settings:
    """The settings of an environment and a `.env` file."""
    for name, value in variables.items():
        monkeypatch.setenv(f"GM_{name}", value)
    return Settings(_env_file=env_file)


def test_defaults_are_those_of_the_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    config = read(monkeypatch)
    assert config.parts == ["kafka", "realtime", "warehouse", "spark", "redis"]
    assert config.kafka_bootstrap == "localhost:9092"
    assert config.dsn("realtime") == "postgresql://globalmart:r@localhost:5433/realtime"
    assert config.dsn("warehouse") == "postgresql://globalmart:w@localhost:5432/warehouse"
    assert config.dsn("warehouse", admin=True) == "postgresql://postgres:a@localhost:5432/warehouse"
    assert config.spark_url("speed") == "sc://localhost:15002/;token=t"
    assert config.spark_url("batch") == "sc://localhost:15003/;token=t"
    assert (config.spark_driver_memory, config.spark_executor_memory) == ("2g", "2g")
    assert config.cron == "*/5 * * * *"
    assert config.rate == 50
    assert (config.data_dir, config.runs_dir) == (ROOT / ".data", ROOT / "runs")
    assert list(TOPICS.values()) == ["transactions-topic", "product-views-topic", "cart-events-topic"]


def test_a_port_moves_an_embedded_part_and_its_url_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    config = read(monkeypatch, REALTIME_PORT="6001", KAFKA_PORT="6002", SPARK_SPEED_PORT="6003")
    assert config.dsn("realtime").endswith("@localhost:6001/realtime")
    assert config.dsn("realtime", admin=True).endswith("@localhost:6001/realtime")
    assert config.kafka_bootstrap == "localhost:6002"
    assert config.spark_url("speed") == "sc://localhost:6003/;token=t"


def test_an_external_part_is_taken_by_its_url(monkeypatch: pytest.MonkeyPatch) -> None:
    config = read(
        monkeypatch,
        EMBEDDED="realtime, spark",
        KAFKA_BOOTSTRAP="broker:9092",
        WAREHOUSE_DSN="postgresql://me:secret@db:5432/dwh",
    )
    assert config.parts == ["realtime", "spark"]
    assert config.kafka_bootstrap == "broker:9092"
    assert config.dsn("warehouse") == "postgresql://me:secret@db:5432/dwh"
    assert config.dsn("warehouse", admin=True) == config.dsn("warehouse")


def test_an_external_database_may_have_an_owner_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = "postgresql://owner:secret@db/dwh"
    config = read(
        monkeypatch,
        EMBEDDED="kafka,realtime,spark",
        WAREHOUSE_DSN="postgresql://me:secret@db/dwh",
        WAREHOUSE_ADMIN_DSN=owner,
    )
    assert config.dsn("warehouse", admin=True) == owner


@pytest.mark.parametrize(
    ("part", "setting"),
    [
        ("kafka", "GM_KAFKA_BOOTSTRAP"),
        ("realtime", "GM_REALTIME_DSN"),
        ("warehouse", "GM_WAREHOUSE_DSN"),
        ("spark", "GM_SPARK_SPEED"),
    ],
)
def test_an_external_part_without_its_url_is_named(monkeypatch: pytest.MonkeyPatch, part: str, setting: str) -> None:
    parts = {"kafka", "realtime", "warehouse", "spark"} - {part}
    with pytest.raises(ValidationError, match=f"{part} is not in GM_EMBEDDED, so {setting} must say where it is"):
        read(monkeypatch, EMBEDDED=",".join(sorted(parts)))


@pytest.mark.parametrize(
    ("part", "setting", "url"),
    [
        ("kafka", "KAFKA_BOOTSTRAP", "broker:9092"),
        ("realtime", "REALTIME_DSN", "postgresql://me@db/realtime"),
        ("warehouse", "WAREHOUSE_ADMIN_DSN", "postgresql://me@db/warehouse"),
        ("spark", "SPARK_BATCH", "sc://host:15003"),
    ],
)
def test_the_url_of_an_embedded_part_contradicts_it(
    monkeypatch: pytest.MonkeyPatch, part: str, setting: str, url: str
) -> None:
    with pytest.raises(ValidationError, match=f"GM_{setting} is set, but {part} is embedded"):
        read(monkeypatch, **{setting: url})


def test_the_url_that_an_embedded_part_has_anyway_is_no_contradiction(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(monkeypatch, KAFKA_BOOTSTRAP="localhost:9092").kafka_bootstrap == "localhost:9092"


def test_brokers_may_be_written_as_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    config = read(monkeypatch, EMBEDDED="realtime,warehouse,spark", KAFKA_BOOTSTRAP="one, [::1]:9094")
    assert config.kafka_bootstrap == "one:9092,[::1]:9094"


def test_a_broker_that_is_no_address_is_named_with_its_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match=r"kafka_bootstrap[\s\S]*has to be host:port of each broker"):
        read(monkeypatch, EMBEDDED="realtime,warehouse,spark", KAFKA_BOOTSTRAP="broker:many")


def test_an_unknown_part_is_named_with_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match="GM_EMBEDDED names mongo; known parts: kafka, realtime"):
        read(monkeypatch, EMBEDDED="kafka,realtime,warehouse,spark,mongo")


@pytest.mark.parametrize(("name", "value"), [("RATE", "0"), ("PARALLEL_JOBS", "0"), ("KAFKA_PORT", "many")])
def test_a_value_that_makes_no_sense_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    with pytest.raises(ValidationError, match=name.lower()):
        read(monkeypatch, **{name: value})


def test_the_environment_wins_over_the_file_and_empty_is_not_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text('GM_RATE=10\nGM_CRON="0 2 * * *"\nGM_KAFKA_PORT=7001\nOTHER=1\n')
    config = read(monkeypatch, env_file, RATE="20", KAFKA_PORT="")
    assert (config.rate, config.cron, config.kafka_port) == (20, "0 2 * * *", 7001)


def test_folders_are_relative_to_the_project(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = read(monkeypatch, DATA_DIR="elsewhere", RUNS_DIR=str(tmp_path / "my runs"))
    assert config.data_dir == ROOT / "elsewhere"
    assert config.runs_dir == tmp_path / "my runs"


def test_passwords_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    config = read(monkeypatch, LAB_TOKEN="hush-hush")
    assert config.lab_token.get_secret_value() == "hush-hush"
    assert "hush-hush" not in repr(config.lab_token)


def test_the_documented_settings_are_the_settings() -> None:
    documented = set(re.findall(r"^#? ?(GM_\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    known = {f"GM_{name.upper()}" for name in Settings.model_fields}
    assert documented == known


def test_the_documented_defaults_are_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    config = read(monkeypatch)
    lines = re.findall(r"^# (GM_\w+)=(\S+|\"[^\"]*\")\s*$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    shown = {
        name: value.strip('"') for name, value in lines if not re.search("DSN|BOOTSTRAP|SPARK_(SPEED|BATCH)$", name)
    }
    assert len(shown) > 10
    for name, value in shown.items():
        actual = getattr(config, name.removeprefix("GM_").lower())
        if isinstance(actual, Path):
            actual = actual.relative_to(ROOT)
        elif isinstance(actual, float):
            value = str(float(value))
        assert str(actual) == value, name


def test_overridden_settings_hold_for_a_block_and_for_what_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GM_RATE", "20")
    settings.cache_clear()
    own = settings()
    with overridden(GM_RATE="7", GM_CRON="0 2 * * *") as config:
        assert config is settings() is own
        assert (config.rate, os.environ["GM_RATE"], os.environ["GM_CRON"]) == (7, "7", "0 2 * * *")
    assert (settings().rate, os.environ["GM_RATE"]) == (20, "20")
    assert "GM_CRON" not in os.environ
    settings.cache_clear()


def test_who_connects_to_a_spark_that_is_away_is_told_that_this_waits_for_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    at_once = {"max_retries": 0, "initial_backoff": 1, "backoff_multiplier": 1.0, "max_backoff": 1}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        port = taken.getsockname()[1]
        with pytest.raises(Exception, match=r"refused|UNAVAILABLE|retries"):
            spark.connect(SecretStr(f"sc://127.0.0.1:{port}/;token=canary"), at_once, at_once)
    told = capsys.readouterr().err
    assert f"Spark doesn't answer at 127.0.0.1:{port}; waiting" in told and "canary" not in told
