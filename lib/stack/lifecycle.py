"""The local stack under its process manager: starting, stopping, and asking how it is."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg2
from kafka import KafkaAdminClient
from kafka.admin import NewTopic
from kafka.errors import KafkaError, TopicAlreadyExistsError
from pydantic import SecretStr
from redis import Redis, RedisError
from supervisor.xmlrpc import SupervisorTransport
from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from lib import brokers, migrate, servers
from lib.settings import ROOT, TOPICS, Settings, settings
from lib.stack import bootstrap, postgres
from lib.stack import programs as parts

START_SECONDS = 240
LIVE = ["savers", "scheduler", "generators", "metrics", "api", "prometheus"]


class StackError(Exception):
    """A part of the stack didn't start or can't be reached; the message says which, and where its log is."""


def up(config: Settings, programs: Iterable[str] = ()) -> None:
    """Start the embedded parts and the named programs, wait until each answers, and bring the schemas up to date.

    What runs already is left alone. When a part doesn't come up, what this call started is stopped again.
    """
    if not _is_managed(config):
        _sweep(config)
        if taken := bootstrap.taken_ports():
            raise StackError(bootstrap.port_message(taken))
    elif others := _other_settings(config):
        print(
            f"the stack runs already, and its programs keep their {', '.join(others)}: `make down` first, to change that"
        )
    parts.prepare(config)
    started = _start_manager(config)
    try:
        start(config, parts.embedded(config))
        await_health(config)
        bring_up_to_date(config)
        start(config, programs)
    except BaseException:
        if started:
            down(config)
        raise


def bring_up_to_date(config: Settings) -> list[str]:
    """Apply what is missing of both schemas, tell the warehouse where the realtime database is, and return the files applied."""
    applied = [file for database in ("realtime", "warehouse") for file in migrate.migrate(config, database)]
    migrate.link(config)
    return applied


def down(config: Settings) -> None:
    """Stop every program and the process manager, so that nothing of the stack is left running; the data stays."""
    if _is_managed(config):
        stop(config, [*reversed(LIVE), *reversed(parts.embedded(config))])
        with _manager(config) as manager:
            pid = manager.getPID()
            manager.shutdown()
        psutil.wait_procs([process for process in [_process(pid)] if process], timeout=60)
    _sweep(config)


def start(config: Settings, programs: Iterable[str]) -> None:
    """Start those of the named programs that don't run, without waiting until they answer; the stack has to be up."""
    with _manager(config) as manager:
        for name in programs:
            try:
                manager.startProcess(name, False)
            except xmlrpc.client.Fault as fault:
                if "ALREADY_STARTED" not in fault.faultString:
                    raise StackError(f"{name} doesn't start: {fault.faultString}") from fault


def stop(config: Settings, programs: Iterable[str]) -> None:
    """Stop those of the named programs that run, one after the other; the stack has to be up."""
    with _manager(config) as manager:
        for name in programs:
            try:
                manager.stopProcess(name)
            except xmlrpc.client.Fault as fault:
                if "NOT_RUNNING" not in fault.faultString:
                    raise


def status(config: Settings) -> dict[str, dict[str, Any]]:
    """State, process id and description of each program, by name; empty when the process manager isn't up."""
    if not _is_managed(config):
        return {}
    with _manager(config) as manager:
        rows = manager.getAllProcessInfo()
    return {row["name"]: {"state": row["statename"], "pid": row["pid"], "since": row["description"]} for row in rows}


def addresses(config: Settings) -> dict[str, str]:
    """Where each part answers, without passwords."""
    return {
        "Kafka": config.kafka_bootstrap,
        "realtime PostgreSQL": servers.place(config.address("realtime")),
        "warehouse PostgreSQL": servers.place(config.address("warehouse")),
        "Spark Connect, speed": config.spark_url("speed").partition(";")[0],
        "Spark Connect, batch": config.spark_url("batch").partition(";")[0],
        "cache": config.redis_url.get_secret_value().rpartition("@")[2].removeprefix("redis://"),
    }


# --- health


STORES = ("realtime", "warehouse", "kafka")


def await_health(config: Settings, names: Iterable[str] = (*STORES, "redis", "spark-speed", "spark-batch")) -> None:
    """Wait until each of the named parts answers a real request; Kafka gets its topics, embedded databases are made."""
    checks: list[tuple[str, Callable[[], None], type[Exception] | tuple[type[Exception], ...]]] = [
        ("realtime", lambda: _database_answers(config, "realtime"), psycopg2.OperationalError),
        ("warehouse", lambda: _database_answers(config, "warehouse"), psycopg2.OperationalError),
        ("kafka", lambda: ensure_topics(config), (KafkaError, OSError)),
        ("redis", lambda: _cache_answers(config), (RedisError, OSError)),
        ("spark-speed", lambda: spark_answers(config.spark_speed), RuntimeError),
        ("spark-batch", lambda: spark_answers(config.spark_batch), RuntimeError),
    ]
    wanted = set(names)
    with ThreadPoolExecutor(len(checks)) as pool:
        for done in [pool.submit(_await, config, *check) for check in checks if check[0] in wanted]:
            done.result()


def _await(
    config: Settings, name: str, check: Callable[[], None], errors: type[Exception] | tuple[type[Exception], ...]
) -> None:
    try:
        for attempt in Retrying(
            stop=stop_after_delay(START_SECONDS), wait=wait_fixed(0.25), retry=retry_if_exception_type(errors)
        ):
            with attempt:
                state = status(config).get(name, {}).get("state", "RUNNING")
                if state == "FATAL":
                    raise StackError(f"{name} doesn't start; the end of {_log(config, name)}:\n{_tail(config, name)}")
                check()
    except RetryError as error:
        last = error.last_attempt.exception()
        raise StackError(
            f"{name} doesn't answer after {START_SECONDS} s ({str(last).strip()}); the end of {_log(config, name)}:\n"
            f"{_tail(config, name)}"
        ) from last


def _log(config: Settings, name: str) -> Path:
    return config.data_dir / "logs" / f"{name}.log"


def _tail(config: Settings, name: str) -> str:
    log = _log(config, name)
    return "\n".join(log.read_text(errors="replace").splitlines()[-8:]) if log.exists() else "(no log: it is external)"


def _database_answers(config: Settings, database: str) -> None:
    if database in config.parts:
        postgres.ensure_database(config, database)
    connection = servers.connect(config.address(database, admin=True), timeout=5)
    try:
        with connection.cursor() as cursor:
            cursor.execute("select 1")
    finally:
        connection.close()


def _cache_answers(config: Settings) -> None:
    if "redis" in config.parts:  # without an external one, the API answers all the same
        with Redis.from_url(config.redis_url.get_secret_value(), socket_timeout=2) as client:
            client.ping()


def ensure_topics(config: Settings) -> None:
    """Make the three topics of three partitions where they don't exist yet."""
    address = brokers.reach(config.kafka_bootstrap, seconds=5)
    client = KafkaAdminClient(bootstrap_servers=address, bootstrap_timeout_ms=5000)
    try:
        missing = set(TOPICS.values()) - set(client.list_topics())
        if missing:
            made = {
                "num_partitions": 3,
                "replication_factor": 1,
                "topic_configs": {"message.timestamp.type": "LogAppendTime"},
            }
            client.create_topics([NewTopic(name, **made) for name in missing])
    except TopicAlreadyExistsError:
        return
    finally:
        client.close()


def spark_answers(address: SecretStr) -> None:
    """Run one query in a process of its own, which can be killed: a client of a dead server would retry for minutes."""
    # the address, with its token, goes by stdin, since anybody can read a command line
    query = (
        "import sys; from pydantic import SecretStr; from lib.spark import connect;"
        " assert connect(SecretStr(sys.stdin.read())).range(3).count() == 3"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", query],
            input=address.get_secret_value(),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError("no answer to a query in 60 s") from error
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])


# --- the process manager


def _socket(config: Settings) -> Path:
    """The manager's socket, in the system's temporary folder, since a socket's path has at most about 100 bytes."""
    digest = hashlib.sha256(str(config.data_dir).encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"globalmart-{os.getuid()}-{digest}.sock"


@contextmanager
def _manager(config: Settings) -> Iterator[Any]:
    """The process manager's XML-RPC commands, over its socket."""
    transport = SupervisorTransport(serverurl=f"unix://{_socket(config)}")
    with xmlrpc.client.ServerProxy("http://localhost", transport) as manager:
        yield manager.supervisor


def _is_managed(config: Settings) -> bool:
    try:
        with _manager(config) as manager:
            manager.getState()
    except (OSError, xmlrpc.client.Error):
        return False
    return True


def _start_manager(config: Settings) -> bool:
    """Start the process manager if it isn't up; True when this call has started it."""
    if _is_managed(config):
        return False
    variables = {
        "GM_STACK": str(config.data_dir),
        "GM_STACK_SOCKET": str(_socket(config)),
        "GM_STACK_PYTHON": sys.executable,
    }
    command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(ROOT / "deploy" / "supervisord.conf")]
    subprocess.run(command, cwd=ROOT, env=os.environ | variables, check=True)
    for attempt in Retrying(stop=stop_after_delay(20), wait=wait_fixed(0.1), reraise=True):
        with attempt, _manager(config) as manager:
            manager.getState()
    return True


def _other_settings(config: Settings) -> list[str]:
    """The settings in this process's environment for which the running stack's programs have another value."""
    with _manager(config) as manager:
        manager_process = _process(manager.getPID())
    theirs = manager_process.environ() if manager_process else {}
    names = [
        name
        for name in os.environ
        if name.startswith("GM_") and name.lower().removeprefix("gm_") in Settings.model_fields
    ]
    return sorted(name for name in names if theirs.get(name) != os.environ[name])


def _process(pid: int) -> psutil.Process | None:
    return psutil.Process(pid) if psutil.pid_exists(pid) else None


def _sweep(config: Settings) -> None:
    """Stop what a killed process manager has left: every process with this stack's `GM_STACK` in its environment."""
    left = []
    for process in psutil.process_iter():
        try:
            marked = process.environ().get("GM_STACK") == str(config.data_dir)
        except psutil.Error:
            continue
        if marked and process.pid != os.getpid():
            left.append(process)
    for process in left:
        try:
            # SIGINT is PostgreSQL's fast shutdown; SIGTERM would wait until its clients are gone
            process.send_signal(2 if process.name() == "postgres" else 15)
        except psutil.NoSuchProcess:
            continue
    _, alive = psutil.wait_procs(left, timeout=15)
    for process in alive:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(alive, timeout=10)


# --- the commands that make calls


def main() -> None:
    """Run one of the commands; an error is one message and exit code 1."""
    commands = {
        **{"up": _make_up, "down": _make_down, "status": _make_status, "lab": _make_lab, "clean": _make_clean},
        "migrate": _make_migrate,
    }
    try:
        commands[sys.argv[1]](settings())
    except (StackError, migrate.MigrationError, ValueError) as error:
        sys.exit(f"globalmart: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def _make_up(config: Settings) -> None:
    started = time.monotonic()
    print("starting the stack …", flush=True)
    has_prometheus = shutil.which("prometheus") is not None
    up(config, [name for name in LIVE if name != "prometheus" or has_prometheus])
    print(f"up in {time.monotonic() - started:.0f} s: generators, savers, scheduler, metrics and the API are at work")
    for name, address in addresses(config).items():
        print(f"  {name:24}{address}")
    print(f"  {'metrics':24}http://localhost:{config.metrics_port}/metrics")
    print(f"  {'API':24}{config.api_url}/docs")
    if has_prometheus:
        print(f"  {'Prometheus':24}http://localhost:{config.prometheus_port}/alerts")
    print(f"  {'reports':24}{config.runs_dir / 'index.html'}")
    if not has_prometheus:
        print(parts.PROMETHEUS_MISSING)
    print("`make status` shows how far it is, `make down` stops it")


def _make_down(config: Settings) -> None:
    down(config)
    print("the stack is down; the data stays")


def _make_status(config: Settings) -> None:
    programs = status(config)
    if not programs:
        print("the stack is down; `make up` starts it")
        return
    for name, row in programs.items():
        print(f"  {name:16}{row['state']:10}{row['since']}")
    sys.stdout.flush()
    subprocess.run([sys.executable, str(ROOT / "schedule.py"), "status"], cwd=ROOT, check=False)


def _make_lab(config: Settings) -> None:
    if not _is_managed(config):
        print("the stack is down: notebooks open, but need `make up` (or `make demo`) to run", file=sys.stderr)
    token = config.lab_token.get_secret_value()
    os.environ["JUPYTER_TOKEN"] = token
    os.chdir(ROOT)
    print(f"JupyterLab: http://localhost:{config.lab_port}/lab?token={token}", flush=True)
    options = ["--ip=127.0.0.1", f"--port={config.lab_port}", "--ServerApp.port_retries=0", "--no-browser"]
    options += ["--allow-root"] if os.geteuid() == 0 else []
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", *options])


def _make_clean(config: Settings) -> None:
    folders = [config.data_dir, *(postgres.data_folder(config, name) for name in ("realtime", "warehouse"))]
    print(f"this forgets all data in {config.data_dir} and all reports in {config.runs_dir}")
    if input("type yes to go on: ").strip() != "yes":
        sys.exit("globalmart: nothing was removed")
    down(config)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    for entry in config.runs_dir.iterdir():
        if entry.name != "README.md":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    print("gone; `make demo` starts anew")


def _make_migrate(config: Settings) -> None:
    """What `up` does to the stores, where somebody else has started them: topics, schemas, the warehouse's link."""
    await_health(config, STORES)
    applied = bring_up_to_date(config)
    print(f"topics and schemas are up to date; {len(applied)} migrations applied")
