"""Set-up: the `.env` that it writes, and the one line that ends it where the machine isn't fit."""

import os
import re
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from dotenv import dotenv_values

from lib.settings import ROOT, Settings
from lib.stack import bootstrap


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that set-up takes for the clone, with a space in its name."""
    folder = tmp_path / "my clone"
    folder.mkdir()
    shutil.copy(ROOT / ".env.example", folder)
    monkeypatch.setattr(bootstrap, "ROOT", folder)
    monkeypatch.delenv("GM_ENV_FILE")
    return folder


@pytest.fixture
def taken() -> Iterator[list[int]]:
    """Three ports that somebody listens on."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(3)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
            one.listen()
        yield [one.getsockname()[1] for one in sockets]


def sourced(env_file: Path) -> dict[str, str]:
    """The `GM_*` variables that a shell gets from the file."""
    command = ["sh", "-c", f"set -a; . ./{env_file.name}; env"]
    done = subprocess.run(command, cwd=env_file.parent, capture_output=True, text=True, check=True, env={})
    assert done.stderr == ""
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if line.startswith("GM_"))


def java(folder: Path, version: str) -> str:
    """A JAVA_HOME whose `java` says that it is of this version."""
    script = folder / "bin" / "java"
    script.parent.mkdir(parents=True)
    script.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2020-01-01' >&2\n")
    script.chmod(0o755)
    return str(folder)


def set_up(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run set-up as `make` does; every test here ends it before it does anything."""
    command = [sys.executable, str(ROOT / "lib" / "stack" / "bootstrap.py"), *arguments]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)


def the_line(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that the command ended with."""
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("globalmart: ")
    return line


def test_env_has_generated_passwords_that_only_its_owner_reads(clone: Path) -> None:
    bootstrap.write_env()
    env_file = clone / ".env"
    assert stat.S_IMODE(env_file.stat().st_mode) == 0o600
    secrets = {name: value for name, value in dotenv_values(env_file).items() if re.search("PASSWORD|TOKEN|KEY", name)}
    assert len(secrets) == len(set(secrets.values())) == 8
    assert all(re.fullmatch("[0-9a-f]{32}", value or "") for value in secrets.values())
    assert "generated" not in (value for value in dotenv_values(env_file).values())
    assert sorted(file.name for file in clone.iterdir()) == [".env", ".env.example"]


def test_an_existing_env_keeps_its_lines_and_gets_the_passwords_that_it_lacks(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (clone / ".env").write_text("GM_RATE=1\n export GM_SPARK_TOKEN=mine  # kept")
    monkeypatch.setenv("GM_LAB_TOKEN", "given")
    bootstrap.write_env()
    text = (clone / ".env").read_text()
    assert text.startswith("GM_RATE=1\n export GM_SPARK_TOKEN=mine  # kept\nGM_")
    added = dict(line.split("=") for line in text.splitlines()[2:])
    wanted = set(re.findall(r"^(GM_\w+)=generated$", (clone / ".env.example").read_text(), re.MULTILINE))
    assert added.keys() == wanted - {"GM_SPARK_TOKEN", "GM_LAB_TOKEN"}
    assert len(set(added.values())) == len(added)
    assert (clone / ".env").stat().st_mode & 0o777 == 0o600
    bootstrap.write_env()
    assert (clone / ".env").read_text() == text


def test_env_can_be_sourced_by_a_shell_and_means_the_same(clone: Path) -> None:
    bootstrap.write_env()
    written = sourced(clone / ".env")
    assert written == {name: value for name, value in dotenv_values(clone / ".env").items() if value}
    assert written == bootstrap.environment() | written
    assert Settings(_env_file=clone / ".env").dsn("realtime").count(written["GM_REALTIME_PASSWORD"]) == 1


def test_every_documented_line_can_be_sourced_by_a_shell_and_means_the_same(clone: Path) -> None:
    text = (clone / ".env.example").read_text()
    lines = [line.removeprefix("# ") for line in text.splitlines() if re.match(r"(# )?GM_\w+=", line)]
    (clone / ".env").write_text("\n".join(lines) + "\n")
    assert sourced(clone / ".env") == dotenv_values(clone / ".env")
    assert {
        name: value for name, value in bootstrap.environment().items() if name in dotenv_values(clone / ".env")
    } == {name: value for name, value in dotenv_values(clone / ".env").items()}


@pytest.mark.parametrize(("version", "said"), [("11.0.22", "11"), ("1.8.0_392", "8"), ("16", "16")])
def test_a_java_that_is_too_old_is_one_clear_line(tmp_path: Path, version: str, said: str) -> None:
    home = java(tmp_path / "old jdk", version)
    line = the_line(set_up(JAVA_HOME=home))
    assert line == (
        f"globalmart: Java 17 or later is needed, and {home}/bin/java is version {said}: "
        "install a newer one, or set JAVA_HOME"
    )


def test_a_missing_java_is_one_clear_line(tmp_path: Path) -> None:
    assert "Java 17 or later is needed and none was found" in the_line(set_up(JAVA_HOME=str(tmp_path)))
    assert "Java 17 or later is needed and none was found" in the_line(set_up(JAVA_HOME="", PATH=str(tmp_path)))


@pytest.mark.parametrize("port", ["many", "0", "99999", "5.0"])
def test_a_port_that_is_none_is_one_line(monkeypatch: pytest.MonkeyPatch, port: str) -> None:
    monkeypatch.setenv("GM_KAFKA_PORT", port)
    with pytest.raises(SystemExit, match=r"^globalmart: GM_KAFKA_PORT has to be a whole number from 1 to 65535$"):
        bootstrap.taken_ports()


def test_an_env_file_that_is_not_utf_8_does_not_stop_the_set_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "my.env").write_bytes(b"\xef\xbb\xbfGM_RATE=7\nGM_LAB_TOKEN=caf\xe9\n")
    monkeypatch.setenv("GM_ENV_FILE", str(tmp_path / "my.env"))
    assert bootstrap.environment()["GM_RATE"] == "7"


@pytest.mark.parametrize("command", [["lib/stack/bootstrap.py", "--ports"], ["-m", "lib.stack", "up"]])
def test_taken_ports_are_named_together_with_the_lines_that_move_them(
    tmp_path: Path, taken: list[int], command: list[str]
) -> None:
    root = ROOT
    if command[0].endswith(".py"):  # before a first set-up
        root = tmp_path / "my clone"
        (root / "lib" / "stack").mkdir(parents=True)
        for name in ("lib/stack/bootstrap.py", ".env.example", "pyproject.toml", "uv.lock", "jars.xml"):
            shutil.copy(ROOT / name, root / name)
    names = ("GM_KAFKA_PORT", "GM_WAREHOUSE_PORT", "GM_SPARK_BATCH_PORT")
    held = {name: str(port) for name, port in zip(names, taken, strict=True)}
    own = {"JAVA_HOME": java(tmp_path, "17.0.1"), "GM_DATA_DIR": str(tmp_path / "data")}
    done = subprocess.run(
        [sys.executable, *command], cwd=root, env=os.environ | own | held, capture_output=True, text=True, check=False
    )
    line = the_line(done)
    moves = dict(re.findall(r"(GM_\w+_PORT)=(\d+)", line))
    for name, port in held.items():
        assert port in line.split("Free them")[0]
        assert moves[name] != port
        assert 1024 < int(moves[name]) < 65536
    assert ".env" in line
    assert not (tmp_path / "data").exists()
    assert not list(root.glob(".tools/ready")) or root == ROOT


def test_the_port_of_an_external_part_may_be_taken(taken: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GM_EMBEDDED", "realtime")
    monkeypatch.setenv("GM_KAFKA_PORT", str(taken[0]))
    monkeypatch.setenv("GM_REALTIME_PORT", str(taken[1]))
    monkeypatch.setenv("GM_METRICS_PORT", str(taken[2]))
    assert bootstrap.taken_ports() == [("GM_REALTIME_PORT", taken[1]), ("GM_METRICS_PORT", taken[2])]


def test_the_default_ports_of_set_up_are_those_of_the_settings() -> None:
    for ports in bootstrap.PORTS.values():
        for name, port in ports.items():
            assert Settings.model_fields[f"{name.lower()}_port"].default == port
