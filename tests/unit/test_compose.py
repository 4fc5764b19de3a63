"""The Compose system: what it lets a container do and see, and that it says the same as the local stack."""

import importlib.util
import os
import re
import stat
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml
from dotenv import dotenv_values

from lib.settings import READER, ROOT, Settings
from lib.stack import bootstrap, postgres, programs

DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name for name, service in SERVICES.items() if "build" in service}
ONE_SHOT = {"migrate"}
PROFILES = {"core", "serving", "lab", "demo"}

each = pytest.mark.parametrize("name", SERVICES)


def make_secrets() -> ModuleType:
    """The command that makes the secrets; it is a file, since it runs before anything is installed."""
    return script("make_secrets")


def script(name: str) -> ModuleType:
    """A program of the folder `deploy`."""
    spec = importlib.util.spec_from_file_location(name, DEPLOY / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def networks(name: str) -> set[str]:
    """The networks of a service."""
    return set(SERVICES[name]["networks"])


def words(value: object) -> list[str]:
    """All texts in a part of the file, keys included."""
    if isinstance(value, dict):
        return [word for pair in value.items() for one in pair for word in words(one)]
    if isinstance(value, list):
        return [word for one in value for word in words(one)]
    return [str(value)]


def mounts(name: str) -> list[tuple[str, str, bool]]:
    """Source, target and whether it is read-only of each volume of a service."""
    found = []
    for line in SERVICES[name].get("volumes", []):
        source, target, *options = line.split(":")
        found.append((source, target, options == ["ro"]))
    return found


# --- what is there


def test_all_parts_are_services() -> None:
    stores = {"realtime", "warehouse", "kafka", "redis", "migrate", "spark-speed", "spark-batch"}
    ours = {"savers", "scheduler", "generators", "metrics", "api", "jupyterlab"}
    assert set(SERVICES) == stores | ours | {"grafana", "prometheus", "alertmanager"}
    # watch restarts Spark servers of the local stack; here the health checks do
    assert set(programs.PROGRAMS) - {"watch", "prometheus"} <= set(SERVICES)


@each
def test_each_service_has_a_profile_that_brings_what_it_waits_for(name: str) -> None:
    profiles = set(SERVICES[name]["profiles"])
    assert profiles and profiles <= PROFILES
    for other, how in SERVICES[name].get("depends_on", {}).items():
        assert profiles <= set(SERVICES[other]["profiles"]), f"{other} isn't started in each profile of {name}"
        expected = {"service_completed_successfully"} if other in ONE_SHOT else {"service_healthy", "service_started"}
        assert how["condition"] in expected


@each
def test_start_order_ends(name: str) -> None:
    seen: list[str] = []
    waiting = [name]
    while waiting:
        one = waiting.pop()
        seen.append(one)
        assert len(seen) < 100, f"{name} waits for itself"
        waiting += SERVICES[one].get("depends_on", {})


@each
def test_each_service_that_stays_has_a_health_check(name: str) -> None:
    if name in ONE_SHOT:
        assert SERVICES[name]["restart"] == "no"
        return
    health = SERVICES[name]["healthcheck"]
    assert health["test"] and {"interval", "timeout", "retries"} <= set(health)
    assert SERVICES[name]["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", sorted(OURS - ONE_SHOT - {"jupyterlab"}))
def test_checks_of_our_programs_exist(name: str) -> None:
    *command, program = SERVICES[name]["healthcheck"]["test"]
    assert command == ["CMD", "python", "deploy/check.py"]
    assert program == name and program in script("check").CHECKS


@each
def test_images_are_pinned(name: str) -> None:
    image = SERVICES[name]["image"].replace("${IMAGE_TAG:-0.1.0}", "0.1.0")
    tag = image.rpartition(":")[2]
    assert re.fullmatch(r"v?\d+\.\d+(\.\d+)?(-bookworm)?", tag), image


def test_versions_are_those_of_the_local_stack() -> None:
    jars = (ROOT / "jars.xml").read_text()
    assert f'name="kafka_2.13" rev="{SERVICES["kafka"]["image"].partition(":")[2]}"' in jars
    (local,) = re.findall(r'name="@POSTGRES@" rev="(\d+)', jars)
    for name in ("realtime", "warehouse"):
        assert SERVICES[name]["image"].startswith(f"postgres:{local}.")
    assert SERVICES["redis"]["image"].startswith("redis:7.")
    assert SERVICES["grafana"]["image"].startswith("grafana/grafana:10.")
    assert SERVICES["prometheus"]["image"].startswith("prom/prometheus:v2.")


# --- what a container may do


@each
def test_container_has_no_rights_and_nothing_to_write_to_but_its_volumes(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"] and "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert not {"privileged", "pid", "ipc", "network_mode", "devices", "userns_mode"} & set(service)
    assert int(str(service["user"]).partition(":")[0]) > 0, "root"
    assert not any("docker.sock" in source for source, _, _ in mounts(name))


@each
def test_container_is_bounded(name: str) -> None:
    limits = SERVICES[name]["deploy"]["resources"]["limits"]
    assert set(limits) == {"cpus", "memory", "pids"}
    assert SERVICES[name]["logging"]["options"] == {"max-size": "10m", "max-file": "3"}


def test_our_containers_run_as_the_image_s_user() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    assert "\nUSER 10001:10001\n" in dockerfile
    assert {SERVICES[name]["user"] for name in OURS} == {"10001:10001"}


@each
def test_ports_are_published_on_loopback_only(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:\$\{[A-Z_]+_PORT:-(\d+)\}:\d+", port), port
        assert "edge" in networks(name), "an internal network publishes nothing"
    if "edge" in networks(name):
        assert SERVICES[name]["ports"]


def test_published_ports_have_the_local_stack_s_names_and_differ() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    found = dict(re.findall(r"\$\{([A-Z_]+_PORT):-(\d+)\}", " ".join(published)))
    assert len(set(found.values())) == len(published)
    fields = {f"GM_{field.upper()}": value.default for field, value in Settings.model_fields.items()}
    for name, port in found.items():
        assert fields.get(name, int(port)) == int(port)


# --- who reaches whom


def test_ingestion_storage_and_serving_are_closed_networks() -> None:
    declared = COMPOSE["networks"]
    assert set(declared) == {"ingestion", "storage", "serving", "edge"}
    assert {name for name, network in declared.items() if network.get("internal")} == set(declared) - {"edge"}


@pytest.mark.parametrize(
    ("store", "clients"),
    [
        ("kafka", {"generators", "spark-speed", "savers", "metrics", "migrate", "jupyterlab"}),
        ("redis", {"api", "grafana", "prometheus", "alertmanager", "metrics", "warehouse", "jupyterlab"}),
        (
            "realtime",
            {"warehouse", "spark-speed", "spark-batch", "savers", "scheduler", "metrics", "migrate", "jupyterlab"},
        ),
        (
            "spark-batch",
            {"realtime", "warehouse", "spark-speed", "savers", "scheduler", "metrics", "migrate", "jupyterlab"},
        ),
    ],
)
def test_store_is_reached_by_those_who_need_it(store: str, clients: set[str]) -> None:
    reached = {name for name in SERVICES if name != store and networks(name) & networks(store)}
    assert reached == clients


@pytest.mark.parametrize("name", ["api", "grafana", "prometheus", "alertmanager"])
def test_what_is_served_cannot_reach_kafka_spark_or_the_realtime_database(name: str) -> None:
    for inner in ("kafka", "spark-speed", "spark-batch", "realtime"):
        assert not networks(name) & networks(inner)


# --- secrets


@each
def test_no_secret_is_in_environment_or_command(name: str) -> None:
    service = SERVICES[name]
    for variable, value in service.get("environment", {}).items():
        if re.search("PASSWORD|TOKEN|SECRET|KEY|DSN|URL$", variable):
            assert variable == "GM_API_URL" or (variable.endswith("_FILE") and value.startswith("/run/secrets/"))
        assert not re.search("://[^/]*:[^/]*@", str(value)), f"{variable} holds a password"
    assert "env_file" not in service
    said = words(service.get("command", [])) + words(service.get("entrypoint", []))
    assert not any(re.search("[0-9a-f]{16}|requirepass", word) for word in said)


@each
def test_each_secret_is_made_by_the_command_and_used_by_its_service(name: str) -> None:
    made = {*make_secrets().RAW, *make_secrets().contents(dict.fromkeys(make_secrets().RAW, "x"))}
    given = [one if isinstance(one, str) else one["source"] for one in SERVICES[name].get("secrets", [])]
    for secret in given:
        assert COMPOSE["secrets"][secret] == {"file": f"./secrets/{secret}"}
        assert secret in made
        script = (DEPLOY / "postgres" / "roles.sh").read_text().replace("${GM_DATABASE}", name)
        # webhook_url is named in Alertmanager's own configuration
        assert secret == "webhook_url" or f"/run/secrets/{secret}" in " ".join(words(SERVICES[name])) + script


def test_every_secret_is_given_to_somebody() -> None:
    given = {
        one if isinstance(one, str) else one["source"]
        for service in SERVICES.values()
        for one in service.get("secrets", [])
    }
    assert given == set(COMPOSE["secrets"])


def test_secrets_are_written_once_and_for_nobody_else_on_the_machine(tmp_path: Path) -> None:
    module, folder = make_secrets(), tmp_path / "secrets"
    written = module.write(folder)
    assert set(written) == {file.name for file in folder.iterdir()}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    # containers run as users that this machine doesn't know
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o444}
    before = {file.name: file.read_text() for file in folder.iterdir()}
    (folder / "api.env").unlink()
    assert module.write(folder) == ["api.env"]
    assert {file.name: file.read_text() for file in folder.iterdir()} == before
    passwords = [before[name] for name in module.RAW]
    assert len(set(passwords)) == len(passwords) and all(re.fullmatch("[0-9a-f]{32}", one) for one in passwords)


def test_secrets_never_get_into_git_or_the_image() -> None:
    assert "deploy/secrets/" in (ROOT / ".gitignore").read_text().splitlines()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored and [line for line in ignored if line.startswith(("!deploy", "!."))] == ["!deploy/check.py"]


@pytest.mark.parametrize("name", sorted(OURS))
def test_settings_of_each_service_are_complete(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = make_secrets()
    raw = dict.fromkeys(module.RAW, "canary")
    for variable in [one for one in Settings.model_fields if f"GM_{one.upper()}" in module.addresses(raw)]:
        monkeypatch.delenv(f"GM_{variable.upper()}", raising=False)
    for variable, value in SERVICES[name]["environment"].items():
        monkeypatch.setenv(variable, re.sub(r"\$\{[A-Z_]+:-(.*?)\}", r"\1", str(value)))
    file = tmp_path / "secrets.env"
    source = Path(SERVICES[name]["environment"].get("GM_ENV_FILE", "none"))
    file.write_text(module.contents(raw).get(source.name, ""))
    config = Settings(_env_file=file)
    assert config.kafka_bootstrap == "kafka:9092"
    assert config.dsn("realtime").partition("@")[2] in ("realtime:5432/realtime", "localhost:5433/realtime")
    seen = {one for one, value in dotenv_values(file).items() if "canary" in (value or "")}
    assert seen == set(module.FILES.get(source.name, ()))


def test_only_migrations_know_the_owner_of_the_databases_and_only_the_api_knows_the_cache() -> None:
    files = make_secrets().FILES
    assert [name for name, known in files.items() if any("ADMIN" in one for one in known)] == ["migrate.env"]
    assert [name for name, known in files.items() if "GM_REDIS_URL" in known] == ["api.env"]
    assert not {"GM_SPARK_SPEED", "GM_SPARK_BATCH", "GM_SPARK_TOKEN"} & {*files["api.env"], *files["metrics.env"]}


# --- the same as the local stack


def test_broker_has_the_local_broker_s_settings() -> None:
    lines = (DEPLOY / "kafka" / "server.properties").read_text().splitlines()
    found = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    own = {"listeners", "advertised.listeners", "controller.quorum.voters", "log.dirs"}
    assert {name: value for name, value in found.items() if name not in own} == programs.KAFKA
    assert own <= set(found)
    assert any(found["log.dirs"].startswith(target) for _, target, _ in mounts("kafka"))


@pytest.mark.parametrize("name", ["realtime", "warehouse"])
def test_databases_have_the_local_ones_settings_and_roles(name: str) -> None:
    given = dict(option.removeprefix("--").split("=", 1) for option in SERVICES[name]["command"][1:])
    assert given == {
        one: value
        for one, value in postgres.TUNING.items()
        if one not in ("listen_addresses", "unix_socket_directories")
    }
    assert SERVICES[name]["environment"]["POSTGRES_INITDB_ARGS"] == "--encoding=UTF8 --locale=C --auth=scram-sha-256"
    assert SERVICES[name]["environment"]["GM_DATABASE"] == name
    script = DEPLOY / "postgres" / "roles.sh"
    assert f"create role {READER} login" in script.read_text() and "create role globalmart login" in script.read_text()
    assert script.stat().st_mode & 0o111, "PostgreSQL's image runs what is executable"


def test_cache_has_the_local_one_s_bounds_and_rights() -> None:
    command = SERVICES["redis"]["command"]
    assert command[command.index("--maxmemory") + 1] == programs.REDIS_MEMORY
    assert make_secrets().CACHE_COMMANDS == programs.REDIS_COMMANDS


def test_programs_are_started_as_in_the_local_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("savers", "scheduler", "metrics", "api"):
        _, *local = programs.PROGRAMS[name][1](Settings(_env_file=None))
        assert [Path(one).name if one.endswith(".py") else one for one in local] == SERVICES[name]["command"][1:]


def test_prometheus_asks_the_services() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "compose.yml").read_text())
    targets = {job["job_name"]: job["static_configs"][0]["targets"][0].split(":") for job in config["scrape_configs"]}
    assert targets["globalmart"] == ["metrics", str(Settings.model_fields["metrics_port"].default)]
    assert targets["api"] == ["api", str(Settings.model_fields["api_port"].default)]
    for host in ("metrics", "api", "alertmanager"):
        assert networks(host) & networks("prometheus")
    local = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    assert config["rule_files"] == local["rule_files"] and config["global"] == local["global"]
    assert [job["job_name"] for job in config["scrape_configs"]] == [job["job_name"] for job in local["scrape_configs"]]


def test_grafana_is_told_all_that_its_provisioning_asks_for() -> None:
    files = (ROOT / "serving" / "grafana" / "provisioning").rglob("*.yaml")
    asked = {name for file in files for name in re.findall(r"\$\{(\w+)\}", file.read_text())}
    assert asked == {one for one in SERVICES["grafana"]["environment"] if one.startswith("GM_")} | {
        "GM_READER_PASSWORD"
    }


# --- what it is made of


@each
def test_each_mounted_path_is_in_the_project(name: str) -> None:
    for source, target, is_read_only in mounts(name):
        if source.startswith("."):
            assert (DEPLOY / source).exists(), source
            assert is_read_only, "the project isn't written to"
        else:
            assert source in COMPOSE["volumes"]
        assert target.startswith("/")


def test_image_is_made_of_the_project_s_lists() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    assert f"ARG UV_VERSION={bootstrap.UV_VERSION}" in text
    assert "sync --frozen --no-dev" in text and "fetch_jars" in text
    assert text.startswith("#") and "\nARG BASE=python:3.11-slim-bookworm\n" in text
    final = text.rpartition("\nFROM ")[2]
    copied = re.findall(r"COPY --from=build /app/(\S+)", final)
    assert set(copied) == {
        ".venv",
        ".tools/jars",
        "sql",
        "notebooks",
        "generators",
        "serving",
        "lib",
        "deploy",
        "schedule.py",
    }
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    sources = [one for line in re.findall(r"^COPY (?!--)(.+) \S+$", text, re.MULTILINE) for one in line.split()]
    assert {one if one in allowed else one.partition("/")[0] for one in sources} == allowed


# --- the health check of a Spark server


class Server:
    """A process that has run for so many seconds, and remembers that it was ended."""

    def __init__(self, name: str, seconds: float, uid: int) -> None:
        self.info = {"cmdline": ["java", name], "uids": SimpleNamespace(real=uid)}
        self.create_time = lambda: time.time() - seconds
        self.is_ended = False

    def kill(self) -> None:
        """End it."""
        self.is_ended = True


@pytest.mark.parametrize(
    ("seconds", "has_answered", "looks"),
    [(10, True, 3), (300, False, 3), (10, False, None)],
    ids=["that has answered before", "that had the time to start", "that is still starting"],
)
def test_spark_server_without_answers(
    seconds: float, has_answered: bool, looks: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, misses = script("check"), tmp_path / "misses"
    others = [Server("other", 300, os.getuid()), *(Server(check.SERVER, 300, os.getuid() + 1) for _ in range(3))]
    server = Server(check.SERVER, seconds, os.getuid())
    monkeypatch.setattr(check.psutil, "process_iter", lambda names: [*others, server])
    if has_answered:
        misses.write_text("0")
    ended = None
    for look in range(1, 10):
        check._count(misses, patience=240)
        if server.is_ended:
            ended = look
            break
    assert ended == looks and not any(other.is_ended for other in others)
    assert not misses.exists(), "its successor starts without a count"
