"""Every setting of GlobalMart, read in one place: the environment first, then the project's `.env`."""

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Self, get_args

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from lib import brokers

ROOT = Path(__file__).resolve().parent.parent

Part = Literal["kafka", "realtime", "warehouse", "spark", "redis"]

TOPICS = {
    "transactions": "transactions-topic",
    "product_view_events": "product-views-topic",
    "cart_events": "cart-events-topic",
}
"""Topic of each realtime table."""


class Settings(BaseSettings):
    """The settings, prefix `GM_`; `.env.example` documents each one.

    The URL of an embedded part follows from its port and password; the URL of an external one
    (taken out of `embedded`) has to be given.

    Raises
    ------
    pydantic.ValidationError
        Naming each setting that is missing or contradicts another.
    """

    model_config = SettingsConfigDict(
        env_prefix="GM_",
        env_file=os.environ.get("GM_ENV_FILE", ROOT / ".env"),
        env_ignore_empty=True,
        extra="ignore",
    )

    embedded: str = ",".join(get_args(Part))
    data_dir: Path = ROOT / ".data"
    runs_dir: Path = ROOT / "runs"
    notebooks_dir: Path = ROOT / "notebooks"
    jars_dir: Path = ROOT / ".tools" / "jars"

    kafka_port: int = 9092
    kafka_controller_port: int = 9093
    kafka_bootstrap: str = ""

    realtime_port: int = 5433
    realtime_password: SecretStr = SecretStr("")
    realtime_dsn: str = ""
    realtime_admin_dsn: str = ""

    warehouse_port: int = 5432
    warehouse_password: SecretStr = SecretStr("")
    warehouse_dsn: str = ""
    warehouse_admin_dsn: str = ""

    admin_password: SecretStr = SecretStr("")

    spark_speed_port: int = 15002
    spark_batch_port: int = 15003
    spark_token: SecretStr = SecretStr("")
    spark_speed: str = ""
    spark_batch: str = ""
    spark_driver_memory: str = "2g"
    spark_executor_memory: str = "2g"
    spark_parallelism: int = Field(default=4, ge=1)

    cron: str = "*/5 * * * *"
    rate: float = Field(default=50, gt=0)
    parallel_jobs: int = Field(default=2, ge=1)
    stream_run_minutes: float = Field(default=60, gt=0)
    stream_retry_seconds: int = Field(default=60, gt=0)
    ledger_days: float = Field(default=7, gt=0)
    run_id: str = ""
    """Of the scheduler's run that this process belongs to; set by the scheduler, empty by hand."""
    lab_port: int = 8888
    metrics_port: int = 9108
    lab_token: SecretStr = SecretStr("")

    @model_validator(mode="after")
    def _fill_urls(self) -> Self:
        unknown = set(self.parts) - set(get_args(Part))
        if unknown:
            raise ValueError(
                f"GM_EMBEDDED names {', '.join(sorted(unknown))}; known parts: {', '.join(get_args(Part))}"
            )
        for name in ("data_dir", "runs_dir", "notebooks_dir", "jars_dir"):
            setattr(self, name, (ROOT / getattr(self, name)).resolve())
        if self.kafka_bootstrap:
            try:
                self.kafka_bootstrap = brokers.normalised(self.kafka_bootstrap)
            except ValueError as error:
                raise ValueError(f"GM_KAFKA_BOOTSTRAP: {error}") from error
        self._fill("kafka", "kafka_bootstrap", f"localhost:{self.kafka_port}")
        for name, port, password in (
            ("realtime", self.realtime_port, self.realtime_password),
            ("warehouse", self.warehouse_port, self.warehouse_password),
        ):
            self._fill(name, f"{name}_dsn", _dsn("globalmart", password, port, name))
            self._fill(name, f"{name}_admin_dsn", _dsn("postgres", self.admin_password, port, name))
        token = self.spark_token.get_secret_value()
        for name, port in (("spark_speed", self.spark_speed_port), ("spark_batch", self.spark_batch_port)):
            self._fill("spark", name, f"sc://localhost:{port}/;token={token}")
        return self

    def _fill(self, part: str, name: str, derived: str) -> None:
        given = getattr(self, name)
        if part in self.parts:
            if given and given != derived:
                raise ValueError(
                    f"GM_{name.upper()} is set, but {part} is embedded: take {part} out of GM_EMBEDDED to use an external "
                    f"one, or remove GM_{name.upper()}; an embedded part is moved with its port"
                )
            setattr(self, name, derived)
        elif not given and not name.endswith("_admin_dsn"):
            raise ValueError(f"{part} is not in GM_EMBEDDED, so GM_{name.upper()} must say where it is")

    @property
    def parts(self) -> list[str]:
        """The parts that we start ourselves."""
        return [part.strip() for part in self.embedded.split(",") if part.strip()]

    def dsn(self, database: str, *, admin: bool = False) -> str:
        """The libpq URI of `realtime` or `warehouse`; with `admin` that of the owner of the schema."""
        app: str = getattr(self, f"{database}_dsn")
        return (getattr(self, f"{database}_admin_dsn") or app) if admin else app


def _dsn(user: str, password: SecretStr, port: int, database: str) -> str:
    return f"postgresql://{user}:{password.get_secret_value()}@localhost:{port}/{database}"


@functools.cache
def settings() -> Settings:
    """The settings of this process, read once."""
    return Settings()


@contextmanager
def overridden(**variables: str) -> Iterator[Settings]:
    """The settings under other `GM_*` variables, for this process and for the runs that it starts meanwhile."""
    config = settings()
    before, environment = dict(vars(config)), {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        # the object stays the same one, since others may hold it
        vars(config).update(vars(Settings()))
        yield config
    finally:
        vars(config).update(before)
        for name, value in environment.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
