"""The stack itself: it starts, answers, and is brought up to date."""

import subprocess
import sys

import psutil
import pytest
from line import Schedule

from lib import migrate
from lib.settings import ROOT, Settings
from lib.stack import lifecycle as parts_of_stack


def test_every_embedded_part_runs_and_a_second_start_is_harmless(stack: Settings) -> None:
    before = parts_of_stack.status(stack)
    parts_of_stack.up(stack)
    after = parts_of_stack.status(stack)
    running = {name: row["pid"] for name, row in after.items() if row["state"] == "RUNNING"}
    assert set(running) == {"kafka", "realtime", "warehouse", "redis", "spark-speed", "spark-batch", "watch"}
    assert running == {name: before[name]["pid"] for name in running}


def test_applying_the_migrations_again_does_nothing(stack: Settings) -> None:
    assert migrate.migrate(stack, "realtime") == []
    assert migrate.migrate(stack, "warehouse") == []


@pytest.mark.parametrize("command", ["list", "status", "run", "rebuild"])
def test_a_warehouse_without_tables_is_a_line_that_says_what_to_do(
    stack: Settings, schedule: Schedule, command: str
) -> None:
    parts = ",".join(part for part in stack.parts if part != "warehouse")
    elsewhere = stack.dsn("warehouse", admin=True).rsplit("/", 1)[0] + "/postgres"
    variables = {"GM_EMBEDDED": parts, "GM_WAREHOUSE_DSN": elsewhere, "GM_WAREHOUSE_ADMIN_DSN": elsewhere}
    told = schedule(command, expect=0 if command == "list" else 1, **variables)
    assert "the warehouse isn't set up for this version (relation" in told.stderr
    assert "Traceback" not in told.stderr


def secrets(config: Settings) -> list[str]:
    """Every secret of the stack, in clear."""
    passwords = (config.realtime_password, config.warehouse_password, config.admin_password, config.spark_token)
    more = (config.lab_token, config.reader_password, config.redis_password, config.api_key)
    return [secret.get_secret_value() for secret in (*passwords, *more)]


def test_no_command_line_and_no_log_tells_a_secret(stack: Settings) -> None:
    # a query for each server, and a login that is refused
    parts_of_stack.await_health(stack)
    refused = stack.dsn("warehouse").replace(stack.warehouse_password.get_secret_value(), "not the password")
    query = f"import psycopg2; psycopg2.connect({refused!r})"
    subprocess.run([sys.executable, "-c", query], cwd=ROOT, capture_output=True, timeout=60, check=False)
    told = [" ".join(process.cmdline()) for process in psutil.process_iter() if _is_ours(process, stack)]
    assert any("SparkConnectServer" in line for line in told)
    told += [log.read_text(errors="replace") for log in (stack.data_dir / "logs").glob("*.log*")]
    assert len(told) > 10
    assert not [text[:200] for text in told for secret in secrets(stack) if secret in text]


def _is_ours(process: psutil.Process, config: Settings) -> bool:
    try:
        return process.environ().get("GM_STACK") == str(config.data_dir) and bool(process.cmdline())
    except psutil.Error:
        return False


HANGING = """
import os, signal
from lib.settings import required
from lib.stack.lifecycle import status
from lib.stack.watch import Watch

watch = Watch(required(), patience=20, allowed=2)
assert watch.look() == [], "a server that answers"
os.kill(status(watch.config)["spark-batch"]["pid"], signal.SIGSTOP)
watch.patience = 3
for looks in range(1, 5):
    if again := watch.look():
        print(looks, *again)
        break
"""


def test_a_spark_server_that_runs_and_computes_nothing_is_started_anew(stack: Settings) -> None:
    before = parts_of_stack.status(stack)
    done = subprocess.run(
        [sys.executable, "-c", HANGING], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.splitlines()[-1:] == ["2 spark-batch"], done.stdout + done.stderr
    parts_of_stack.await_health(stack)
    after = parts_of_stack.status(stack)
    assert after["spark-batch"]["pid"] != before["spark-batch"]["pid"]
    assert after["spark-speed"]["pid"] == before["spark-speed"]["pid"]
