"""No password, token or address with one in it is told: a canary in each secret, looked for in all that can be seen."""

import io
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from IPython.core.interactiveshell import InteractiveShell
from pydantic import SecretStr
from rich.console import Console
from rich.traceback import Traceback

from lib import servers, spark
from lib.runs.process import Assignment
from lib.settings import ROOT, Settings, SettingsError, settings
from lib.stack import scratch

CANARY = "canary-in-the-mine"
SECRETS = [f"GM_{name}" for name in scratch.SECRETS]
EXTERNAL = {
    "GM_EMBEDDED": "redis",
    "GM_KAFKA_BOOTSTRAP": "localhost:1",
    **{f"GM_{name}_DSN": f"postgresql://u:{CANARY}@localhost:1/d" for name in ("REALTIME", "WAREHOUSE")},
    **{f"GM_{name}_ADMIN_DSN": f"postgresql://o:{CANARY}@localhost:1/d" for name in ("REALTIME", "WAREHOUSE")},
    **{f"GM_SPARK_{name}": f"sc://localhost:1/;token={CANARY}" for name in ("SPEED", "BATCH")},
}
WRONG_ADDRESSES = [
    *("canary-in-the-mine@h/d", "u:canary-in-the-mine@h/d", "mysql://u:canary-in-the-mine@h/d"),
    *("postgresql://u:canary@in-the-mine@h/d", "postgresql://u:canary/in-the-mine@h/d"),
    *("postgresql://u:%canary-in-the-mine@h/d", "postgresql://u:canary-in-the-mine@h:port/d"),
    *("postgresql://u:canary-in-the-mine@h/d?sslmod=canary-in-the-mine", "postgresql://u:canary-in-the-mine@h:99999/d"),
    *(
        "postgresql://canary-in-the-mine",
        "host=h user=u dbname=d password=canary in-the-mine",
        "postgresql://:canary@/d",
    ),
    *("postgresql://u:canary-in-the-mine@h", "\udcff:canary-in-the-mine"),
]
WRONG_SPARK = ["http://h/;token=canary", "sc://h/canary", "sc://h/;canary", "sc://h:canary", "sc://canary@h", "canary"]
PROGRAMS = [
    *(["schedule.py", name] for name in ("list", "graph", "run", "start", "status", "validate", "rebuild")),
    *(
        ["schedule.py", "dead-letters", "list"],
        ["schedule.py", "backfill", "--from", "2026-01-01", "--to", "2026-01-02"],
    ),
    *(["-m", "lib.stack", name] for name in ("up", "down", "status", "lab", "clean")),
    *(
        ["-m", "lib.stack.demo"],
        ["-m", "lib.ledger.metrics"],
        ["-m", "lib.cli.docs"],
        ["-m", "lib.stack.programs", "kafka"],
        ["-m", "generators", "all"],
    ),
]


@pytest.fixture
def external(monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings with a canary in each secret, of servers where nothing listens."""
    for name, value in (EXTERNAL | dict.fromkeys(SECRETS, CANARY)).items():
        monkeypatch.setenv(name, value)
    return Settings()


def tell(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """What a program says."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GM_")}
    environment |= {"GM_ENV_FILE": os.devnull, "PYTHONPATH": str(ROOT)} | dict.fromkeys(SECRETS, CANARY) | variables
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)


def assert_silent(text: str) -> None:
    """No part of the canary is told; nor is text missing."""
    assert text and not any(part in text for part in ("canary", "in-the-mine", "in-the"))


def test_settings_show_no_secret_in_any_form(external: Settings) -> None:
    forms = [repr(external), str(external), f"{external}", repr(vars(external)), repr(external.model_dump())]
    forms += [
        external.model_dump_json(),
        repr(external.model_dump(mode="json")),
        repr(dict(external)),
        repr(external.model_copy()),
    ]
    for form in forms:
        assert_silent(form)
    assert pickle.loads(pickle.dumps(external)) == external
    assert CANARY in external.dsn("realtime") and CANARY in external.spark_url("batch")


def test_each_setting_with_an_address_is_a_secret_in_type() -> None:
    typed = {name for name, field in Settings.model_fields.items() if field.annotation is SecretStr}
    assert typed == {
        *("realtime_password", "warehouse_password", "admin_password", "reader_password", "redis_password"),
        *("spark_token", "lab_token", "api_key"),
        *("realtime_dsn", "realtime_admin_dsn", "realtime_reader_dsn"),
        *("warehouse_dsn", "warehouse_admin_dsn", "warehouse_reader_dsn"),
        *("spark_speed", "spark_batch", "redis_url"),
    }


def tracebacks(error: BaseException) -> Iterator[str]:
    """What shows an error with the variables of each frame."""
    console = Console(record=True, width=400, file=io.StringIO())
    console.print(
        Traceback.from_exception(type(error), error, error.__traceback__, show_locals=True, locals_max_string=None)
    )
    yield console.export_text()
    shell = InteractiveShell.instance()
    shell.run_line_magic("xmode", "Verbose")
    yield "\n".join(shell.InteractiveTB.structured_traceback(type(error), error, error.__traceback__))


def failing(what: Any, *arguments: Any) -> BaseException:
    """The error of a call that has settings among its variables."""
    try:
        config = arguments[0]  # noqa: F841
        what(*arguments)
    except Exception as error:
        return error
    pytest.fail("no error")


def connect(config: Settings) -> None:
    """What every connection of ours goes through."""
    servers.connect(config.address("warehouse", admin=True), timeout=1)


def test_a_traceback_with_variables_shows_no_secret(external: Settings) -> None:
    error = failing(connect, external)
    assert isinstance(error, psycopg2.OperationalError)
    for text in tracebacks(error):
        assert "external" in text or "config" in text
        assert_silent(text)


def test_a_traceback_of_wrong_settings_shows_no_secret(external: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GM_RATE", "0")
    for read in (lambda config: Settings(), lambda config: settings.__wrapped__()):
        error = failing(read, external)
        assert "rate" in str(error).lower()
        for text in tracebacks(error):
            assert_silent(text)


def test_a_refused_connection_to_spark_shows_no_secret(external: Settings) -> None:
    error = failing(lambda config: spark.connect(config.spark_speed, connecting={"max_retries": 0}), external)
    assert_silent(str(error))


@pytest.mark.parametrize("address", WRONG_ADDRESSES)
def test_an_address_that_is_wrong_is_refused_without_telling_it(address: str) -> None:
    with pytest.raises(ValueError, match="write postgresql://user:password@host") as refused:
        servers.check_database(SecretStr(address))
    assert_silent(str(refused.value))
    assert_silent(servers.without_password(f'invalid: "{address}"', SecretStr(address)))


@pytest.mark.parametrize("address", WRONG_SPARK)
def test_an_address_of_spark_that_is_wrong_is_refused_without_telling_it(address: str) -> None:
    with pytest.raises(ValueError, match="write sc://host") as refused:
        servers.check_spark(SecretStr(address))
    assert_silent(str(refused.value))


@pytest.mark.parametrize(
    "address",
    [
        *(
            "postgresql://u:p%40ss@h/d",
            "postgres://u@h:1/d?sslmode=require",
            "host=h user=u dbname=d password='a b'",
            "",
        ),
        *("postgresql://u:pw@[::1]:5432/d", "postgresql://u:a#b@h/d"),
    ],
)
def test_a_right_address_is_taken(address: str) -> None:
    servers.check_database(SecretStr(address))


@pytest.mark.parametrize(
    "address", ["sc://h", "sc://h:15002/;token=a%2Fb;use_ssl=true", "sc://h/", "sc://[::1]:1/;token=t", ""]
)
def test_a_right_address_of_spark_is_taken(address: str) -> None:
    servers.check_spark(SecretStr(address))


def test_the_password_is_taken_out_of_what_libpq_says() -> None:
    address = SecretStr("postgresql://u:can%40ry@h/d")
    said = 'FATAL: "can@ry", can%40ry, postgresql://u:can%40ry@h/d'
    assert servers.without_password(said, address) == 'FATAL: "***", ***, ***'


def test_the_passwords_of_env_may_hold_any_character(monkeypatch: pytest.MonkeyPatch) -> None:
    strange = "p@ss/w:rd?#%;=&é"
    for name in SECRETS:
        monkeypatch.setenv(name, strange)
    config = Settings()
    for database in ("realtime", "warehouse"):
        for admin in (False, True):
            place = psycopg2.extensions.parse_dsn(config.dsn(database, admin=admin))
            assert (place["password"], place["host"], place["dbname"]) == (strange, "localhost", database)
    assert spark.ConnectSession.builder is not None
    from pyspark.sql.connect.client.core import DefaultChannelBuilder

    assert DefaultChannelBuilder(config.spark_url("speed")).token == strange


def test_what_a_run_is_given_does_not_show_its_environment() -> None:
    path = Path("x")
    assignment = Assignment("id", path, path, (path, path), path, path, {}, dict.fromkeys(SECRETS, CANARY))
    assert_silent(repr(assignment))
    assert_silent(repr(replace(assignment, run_id="other")))


@pytest.mark.parametrize("program", PROGRAMS, ids=" ".join)
def test_a_wrong_setting_is_one_line_of_every_program(program: list[str]) -> None:
    told = tell(*program, GM_REALTIME_DSN=f"postgresql://u:{CANARY}@h/d", GM_RATE="0", GM_CRON="0 0 30 2 *")
    lines = [line.removeprefix("globalmart: ").removeprefix("generators: ") for line in told.stderr.splitlines()]
    assert sorted(lines) == [
        "GM_CRON never comes true: none of its months has such a day",
        "GM_RATE has to be greater than 0",
        "GM_REALTIME_DSN is set, but realtime is embedded: take realtime out of GM_EMBEDDED to use an external one, or"
        " remove GM_REALTIME_DSN; an embedded part is moved with its port",
    ]
    assert told.stdout == ""
    assert told.returncode == (1 if "lib." in program[1] else 2)


@pytest.mark.parametrize("command", ["list", "status", "run", "rebuild"])
def test_a_database_that_is_away_is_told_without_its_password(command: str) -> None:
    told = tell("schedule.py", command, **EXTERNAL)
    assert "the warehouse isn't reachable at localhost:1" in told.stderr
    assert_silent(told.stdout + told.stderr)


@pytest.mark.parametrize("command", ["list", "graph", "run", "validate", "rebuild", "status", "start"])
def test_a_folder_of_notebooks_that_is_not_there_is_a_line_and_not_an_empty_list(command: str, tmp_path: Path) -> None:
    told = tell("schedule.py", command, GM_NOTEBOOKS_DIR=str(tmp_path / "notebook"))
    assert told.returncode == 2
    assert "GM_NOTEBOOKS_DIR" in told.stderr
    assert "isn't a folder" in told.stderr


def test_a_cell_shows_settings_that_are_wrong_in_a_line_and_right_ones_without_secrets() -> None:
    code = (
        "from IPython.core.interactiveshell import InteractiveShell as Shell\n"
        "shell = Shell.instance(colors='nocolor')\n"
        "shell.run_line_magic('xmode', 'Verbose')\n"
        "shell.run_cell('from lib.settings import settings\\nconfig = settings()\\nprint(config)\\nconfig', store_history=True)"
    )
    told = tell("-c", code, GM_REALTIME_DSN=f"postgresql://u:{CANARY}@h/d")
    assert_silent(told.stdout)
    _, *lines = told.stdout.splitlines()
    assert len(lines) == 1 and lines[0].startswith("SettingsError: GM_REALTIME_DSN is set, but")
    told = tell("-c", code, **EXTERNAL)
    assert "SecretStr('**********')" in told.stdout
    assert_silent(told.stdout)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"GM_ADMIN_PASSWORD=canary\xe9\n", "can't be read: it isn't UTF-8"),
        (None, "isn't there: correct it, or unset it"),
    ],
)
def test_an_env_file_that_cannot_be_read_is_one_line(tmp_path: Path, content: bytes | None, problem: str) -> None:
    file = tmp_path / "my.env"
    if content is not None:
        file.write_bytes(content)
    told = tell("schedule.py", "list", GM_ENV_FILE=str(file))
    assert (told.returncode, len(told.stderr.splitlines())) == (2, 1)
    assert str(file) in told.stderr and problem in told.stderr
    assert_silent(told.stderr)
    assert tell("schedule.py", "list", GM_ENV_FILE=str(tmp_path)).stderr.strip().endswith("has to name a file")


def test_a_byte_order_mark_hides_no_setting(tmp_path: Path) -> None:
    file = tmp_path / "my.env"
    file.write_text("GM_RATE=7\n", encoding="utf-8-sig")
    assert Settings(_env_file=file).rate == 7


def test_an_error_of_settings_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(SettingsError("GM_A is wrong", "GM_B is wrong")))
    assert str(error) == "GM_A is wrong\nGM_B is wrong"
