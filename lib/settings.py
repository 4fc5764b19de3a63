"""Every setting of GlobalMart, read in one place: the environment first, then the project's `.env`."""

import functools
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import quote

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from lib import cron, servers

ROOT = Path(__file__).resolve().parent.parent

Part = Literal["kafka", "realtime", "warehouse", "spark", "redis"]

READER = "globalmart_serving"
"""The databases' user that reads what is served, and nothing else."""

TOPICS = {
    "transactions": "transactions-topic",
    "product_view_events": "product-views-topic",
    "cart_events": "cart-events-topic",
}
"""Topic of each realtime table."""


class SettingsError(ValueError):
    """Settings that can't be used: a line for each one, which names it and says what to change, and never its value."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows instead of a traceback, since the cell that asks for settings isn't at fault."""
        return [f"{type(self).__name__}: {self}"]


def _cron_line(value: str) -> str:
    cron.check(value)
    return value


Port = Annotated[int, Field(ge=1, lt=1 << 16)]
DatabaseAddress = Annotated[SecretStr, AfterValidator(servers.check_database)]
SparkAddress = Annotated[SecretStr, AfterValidator(servers.check_spark)]
CacheAddress = Annotated[SecretStr, AfterValidator(servers.check_redis)]


class Settings(BaseSettings):
    """The settings, prefix `GM_`; `.env.example` documents each one.

    The URL of an embedded part follows from its port and password; the URL of an external one
    (taken out of `embedded`) has to be given. What holds a password is a `SecretStr`; `dsn` and `spark_url` return it in
    clear, for connecting.

    Raises
    ------
    pydantic.ValidationError
        Naming each setting that is missing, wrong or contradicts another; `settings` says it in a line for each.
    """

    model_config = SettingsConfigDict(
        env_prefix="GM_",
        env_file=os.environ.get("GM_ENV_FILE") or ROOT / ".env",
        env_file_encoding="utf-8-sig",
        env_ignore_empty=True,
        extra="ignore",
        hide_input_in_errors=True,
    )

    embedded: str = ",".join(get_args(Part))
    data_dir: Path = ROOT / ".data"
    runs_dir: Path = ROOT / "runs"
    notebooks_dir: Path = ROOT / "notebooks"
    jars_dir: Path = ROOT / ".tools" / "jars"

    kafka_port: Port = 9092
    kafka_controller_port: Port = 9093
    kafka_bootstrap: Annotated[str, AfterValidator(servers.check_brokers)] = ""

    realtime_port: Port = 5433
    realtime_password: SecretStr = SecretStr("")
    realtime_dsn: DatabaseAddress = SecretStr("")
    realtime_admin_dsn: DatabaseAddress = SecretStr("")
    realtime_reader_dsn: DatabaseAddress = SecretStr("")

    warehouse_port: Port = 5432
    warehouse_password: SecretStr = SecretStr("")
    warehouse_dsn: DatabaseAddress = SecretStr("")
    warehouse_admin_dsn: DatabaseAddress = SecretStr("")
    warehouse_reader_dsn: DatabaseAddress = SecretStr("")

    admin_password: SecretStr = SecretStr("")
    reader_password: SecretStr = SecretStr("")

    spark_speed_port: Port = 15002
    spark_batch_port: Port = 15003
    spark_token: SecretStr = SecretStr("")
    spark_speed: SparkAddress = SecretStr("")
    spark_batch: SparkAddress = SecretStr("")
    spark_driver_memory: str = "2g"
    spark_executor_memory: str = "2g"
    spark_parallelism: int = Field(default=4, ge=1)

    api_key: SecretStr = SecretStr("")
    redis_port: Port = 6379
    redis_password: SecretStr = SecretStr("")
    redis_url: CacheAddress = SecretStr("")

    api_port: Port = 8000
    api_host: str = "127.0.0.1"
    metrics_host: str = "127.0.0.1"
    spark_host: str = "127.0.0.1"
    api_url: str = ""
    api_workers: int = Field(default=1, ge=1)

    cron: Annotated[str, AfterValidator(_cron_line)] = "*/5 * * * *"
    rate: float = Field(default=50, gt=0, allow_inf_nan=False)
    parallel_jobs: int = Field(default=2, ge=1)
    stream_run_minutes: float = Field(default=60, gt=0, allow_inf_nan=False)
    stream_retry_seconds: int = Field(default=60, gt=0)
    ledger_days: float = Field(default=7, gt=0, allow_inf_nan=False)
    run_id: str = ""
    """The id of the run that this process belongs to; the scheduler sets it, by hand it is empty."""
    lab_port: Port = 8888
    metrics_port: Port = 9108
    prometheus_port: Port = 9090
    lab_token: SecretStr = SecretStr("")

    def __init__(self, **given: Any) -> None:
        wrong: ValidationError | None = None
        try:
            super().__init__(**given)
        except ValidationError as error:
            wrong = error.with_traceback(None)
        if wrong:
            # without a traceback, whose frames hold what was read
            raise wrong

    @model_validator(mode="after")
    def _fill_urls(self) -> Self:
        wrong: list[str] = []
        if unknown := set(self.parts) - set(get_args(Part)):
            # what isn't a name may be an address with a password, put there by mistake
            names = ", ".join(sorted(name if name.isalnum() else "what is no name" for name in unknown))
            wrong.append(f"GM_EMBEDDED names {names}; known parts: {', '.join(get_args(Part))}")
        for name in ("data_dir", "runs_dir", "notebooks_dir", "jars_dir"):
            setattr(self, name, (ROOT / getattr(self, name)).resolve())
        self.api_url = self.api_url.rstrip("/") or f"http://localhost:{self.api_port}"
        if problem := self._contradiction("kafka", "kafka_bootstrap", f"localhost:{self.kafka_port}"):
            wrong.append(problem)
        for part, name, derived in self._addresses():
            if problem := self._contradiction(part, name, SecretStr(derived)):
                wrong.append(problem)
        if wrong:
            raise ValueError("\n".join(wrong))
        return self

    def _addresses(self) -> Iterator[tuple[str, str, str]]:
        """Part, setting and address of each embedded part that has a password."""
        for part in ("realtime", "warehouse"):
            port = getattr(self, f"{part}_port")
            app, admin = getattr(self, f"{part}_password"), self.admin_password
            yield part, f"{part}_dsn", f"postgresql://globalmart:{_quoted(app)}@localhost:{port}/{part}"
            yield part, f"{part}_admin_dsn", f"postgresql://postgres:{_quoted(admin)}@localhost:{port}/{part}"
            reader = f"{READER}:{_quoted(self.reader_password)}"
            yield part, f"{part}_reader_dsn", f"postgresql://{reader}@localhost:{port}/{part}"
        for name, port in (("spark_speed", self.spark_speed_port), ("spark_batch", self.spark_batch_port)):
            yield "spark", name, f"sc://localhost:{port}/;token={_quoted(self.spark_token)}"
        cache = f"redis://globalmart:{_quoted(self.redis_password)}@localhost:{self.redis_port}/0"
        yield "redis", "redis_url", cache

    def _contradiction(self, part: str, name: str, derived: str | SecretStr) -> str | None:
        """What is wrong with the address of a part, if anything is; that of an embedded part is filled in."""
        given, variable = getattr(self, name), f"GM_{name.upper()}"
        if part in self.parts:
            if given and given != derived:
                return (
                    f"{variable} is set, but {part} is embedded: take {part} out of GM_EMBEDDED to use an external "
                    f"one, or remove {variable}; an embedded part is moved with its port"
                )
            setattr(self, name, derived)
        elif not given and not name.endswith(("_admin_dsn", "_reader_dsn", "redis_url")):
            return f"{part} is not in GM_EMBEDDED, so {variable} must say where it is"
        return None

    @property
    def parts(self) -> list[str]:
        """The parts that we start ourselves."""
        return [part.strip() for part in self.embedded.split(",") if part.strip()]

    def address(self, database: str, *, admin: bool = False, reader: bool = False) -> SecretStr:
        """The address of `realtime` or `warehouse`, with user and password: the jobs' user, with `admin` the owner of the
        schema, with `reader` the one that reads what is served."""
        app: SecretStr = getattr(self, f"{database}_dsn")
        kind = "admin" if admin else "reader" if reader else ""
        return (getattr(self, f"{database}_{kind}_dsn") or app) if kind else app

    def dsn(self, database: str, *, admin: bool = False) -> str:
        """The address in clear, for connecting."""
        return self.address(database, admin=admin).get_secret_value()

    def spark_url(self, layer: str) -> str:
        """The URL of the Spark Connect server of the layer `speed` or `batch`, in clear."""
        address: SecretStr = getattr(self, f"spark_{layer}")
        return address.get_secret_value()


def _quoted(secret: SecretStr) -> str:
    return quote(secret.get_secret_value(), safe="")


@functools.cache
def settings() -> Settings:
    """The settings of this process, read once.

    Raises
    ------
    SettingsError
        Naming each one that is wrong.
    """
    return _read()


def _read() -> Settings:
    wrong = _wrong_file()
    if not wrong:
        try:
            return Settings()
        except ValidationError as error:
            wrong = _sentences(error)
        except (OSError, UnicodeError) as error:
            wrong = [f"{_env_file()} can't be read: {_reason(error)}"]
    # raised outside of the handlers, since pydantic's error holds all that was given
    raise SettingsError(*wrong)


def _env_file() -> Path:
    return Path(str(Settings.model_config["env_file"])).expanduser()


def _wrong_file() -> list[str]:
    """What is wrong with the file that holds settings; the project's own `.env` may be absent."""
    file, named = _env_file(), bool(os.environ.get("GM_ENV_FILE"))
    if named and not file.exists():
        return [f"GM_ENV_FILE names {file}, which isn't there: correct it, or unset it to use the project's .env"]
    if file.is_dir():
        return [f"{file} is a folder: GM_ENV_FILE has to name a file" if named else f"{file} is a folder, not a file"]
    return []


def _reason(error: OSError | UnicodeError) -> str:
    if isinstance(error, OSError):
        return f"{error.strerror}; it has to be readable for the user that runs this"
    return "it isn't UTF-8; save it as that"


def _sentences(error: ValidationError) -> list[str]:
    """A line for each wrong setting, without what was given."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    lines = [line for one in found for line in _sentence(one["loc"], one["msg"])]
    if fields := {str(one["loc"][0]) for one in found if one["loc"]}:
        # pydantic checks rules about several settings only when each is right by itself: so check with defaults for these
        defaults: dict[str, Any] = {name: Settings.model_fields[name].default for name in fields}
        try:
            Settings(**defaults)
        except ValidationError as other:
            named = tuple(f"GM_{name.upper()}" for name in fields)
            lines += [line for line in _sentences(other) if not any(re.search(rf"{name}\b", line) for name in named)]
    return lines


def _sentence(place: tuple[int | str, ...], message: str) -> list[str]:
    text = message.removeprefix("Value error, ").partition(", unable to")[0].replace("Input should", "has to")
    return [f"GM_{str(place[0]).upper()} {text}"] if place else text.split("\n")


def required() -> Settings:
    """The settings of a program, which ends with a line for each one that is wrong."""
    try:
        return settings()
    except SettingsError as error:
        text = f"globalmart: {error}"
    sys.exit(text)


@contextmanager
def overridden(**variables: str) -> Iterator[Settings]:
    """The settings under other `GM_*` variables, for this process and for the runs that it starts meanwhile."""
    config = settings()
    before, environment = dict(vars(config)), {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        # the object itself stays, since other modules may hold it
        vars(config).update(vars(_read()))
        yield config
    finally:
        vars(config).update(before)
        for name, value in environment.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
