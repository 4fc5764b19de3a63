"""Set-up of a clone with the standard library alone: checks, `.env`, Python packages, jars, git filter.

`python3 lib/stack/bootstrap.py [--ports]` is safe to call before every command: what is there already is left alone.
Every check comes before the first download; a failure is one clear line and exit code 1.
"""

from __future__ import annotations  # so that an older Python gets as far as saying that it is too old

import hashlib
import os
import platform
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".tools"
UV_VERSION = "0.13.9"
FREE_GIB = 4

PORTS = {
    "kafka": {"KAFKA": 9092, "KAFKA_CONTROLLER": 9093},
    "realtime": {"REALTIME": 5433},
    "warehouse": {"WAREHOUSE": 5432},
    "spark": {"SPARK_SPEED": 15002, "SPARK_BATCH": 15003},
    "redis": {"REDIS": 6379},
    "metrics": {"METRICS": 9108},
    "api": {"API": 8000},
    "prometheus": {"PROMETHEUS": 9090},
}
"""Default ports of each embedded part and of our own programs; `GM_<NAME>_PORT` moves one."""

POSTGRES = {
    ("Linux", "x86_64"): "linux-amd64",
    ("Linux", "aarch64"): "linux-arm64v8",
    ("Darwin", "x86_64"): "darwin-amd64",
    ("Darwin", "arm64"): "darwin-arm64v8",
}


def environment() -> dict[str, str]:
    """The `GM_*` variables, as `lib.settings` sees them: the environment first, then `.env`."""
    values = {}
    env_file = Path(os.environ.get("GM_ENV_FILE") or ROOT / ".env")
    if env_file.is_file():
        # bytes that aren't UTF-8 are for the settings to refuse
        for line in env_file.read_text(encoding="utf-8-sig", errors="replace").splitlines():
            name, equals, value = line.strip().partition("=")
            if equals and name.startswith("GM_"):
                values[name] = value.partition(" #")[0].strip().strip("'\"")
    return values | {name: value for name, value in os.environ.items() if name.startswith("GM_") and value}


def taken_ports() -> list[tuple[str, int]]:
    """Those ports of embedded parts and our own programs that another program listens on: setting and number of each."""
    env = environment()
    embedded = env.get("GM_EMBEDDED", ",".join(PORTS)).split(",")
    ours = {"metrics", "api", "prometheus", *(part.strip() for part in embedded)}
    if not shutil.which("prometheus"):
        ours.remove("prometheus")
    taken = []
    for ports in (ports for part, ports in PORTS.items() if part in ours):
        for name, default in ports.items():
            text = env.get(f"GM_{name}_PORT", str(default))
            if not re.fullmatch("[0-9]{1,5}", text) or not 0 < int(text) < 1 << 16:
                fail(f"GM_{name}_PORT has to be a whole number from 1 to 65535")
            port = int(text)
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    taken.append((f"GM_{name}_PORT", port))
    return taken


def main() -> None:
    """Check the machine, then set the clone up; with `--ports`, a first set-up begins with checking the ports.

    Later the stack checks them itself, since then some may be in use by its own programs.
    """
    java = find_java()
    check_machine(java)
    if not is_ready():
        if "--ports" in sys.argv and (taken := taken_ports()):
            fail(port_message(taken))
        check_disk()
        install(java)
    write_env()


def fail(message: str) -> NoReturn:
    """End with one line on stderr and exit code 1."""
    sys.exit(f"globalmart: {message}")


def find_java() -> str:
    """`java` of JAVA_HOME, else of PATH; ends the program where there is none of version 17 or later."""
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home, "bin", "java")) if home else shutil.which("java")
    if not java or not Path(java).exists():
        fail("Java 17 or later is needed and none was found: install a JDK (or JRE), or set JAVA_HOME")
    out = subprocess.run([java, "-version"], capture_output=True, text=True).stderr
    version = re.search(r'version "(?:1\.)?(\d+)', out)
    if not version or int(version[1]) < 17:
        found = version[1] if version else "unknown"
        fail(f"Java 17 or later is needed, and {java} is version {found}: install a newer one, or set JAVA_HOME")
    return java


def check_machine(java: str) -> None:
    """End the program on a platform that the embedded parts don't run on."""
    if sys.version_info < (3, 11):
        fail(
            f"Python 3.11 or later is needed, and this is {platform.python_version()}: run with PYTHON=python3.11 make …"
        )
    if (platform.system(), platform.machine()) not in POSTGRES:
        fail(
            f"{platform.system()} on {platform.machine()} is not supported: "
            "the embedded parts run on Linux and macOS, 64-bit Intel or Arm"
        )


def port_message(taken: list[tuple[str, int]]) -> str:
    """A message that names all taken ports, with the lines for `.env` that move ours."""
    moved = "  ".join(f"{name}={port + 10000 if port < 50000 else port - 10000}" for name, port in taken)
    numbers = ", ".join(str(port) for _, port in taken)
    return f"in use by another program: port {numbers}. Free them, or move ours with these lines in .env:  {moved}"


def check_disk() -> None:
    """End the program when the disk has no room for packages, jars and a demo's data."""
    free = shutil.disk_usage(ROOT).free / 2**30
    if free < FREE_GIB:
        fail(f"{free:.1f} GiB free at {ROOT}, and set-up with a demo needs {FREE_GIB}: free some space")


def write_env() -> None:
    """Write `.env` with generated passwords (0600) on first set-up, from the documented `.env.example`.

    One that is there already gets the passwords that it hasn't yet, behind all else.
    """
    env_file = ROOT / ".env"
    if "GM_ENV_FILE" in os.environ:
        return
    lines = [
        re.sub(r"^(GM_\w+)=generated$", lambda match: f"{match[1]}={secrets.token_hex(16)}", line)
        for line in (ROOT / ".env.example").read_text().splitlines()
    ]
    if env_file.exists():
        generated = [line for line in lines if re.match(r"GM_\w+=", line)]
        text = env_file.read_text(encoding="utf-8", errors="surrogateescape")
        known = {*re.findall(r"^\s*(?:export\s+)?(GM_\w+)\s*=", text, re.MULTILINE), *os.environ}
        missing = [line for line in generated if line.partition("=")[0] not in known]
        if not missing:
            return
        lines = [text.rstrip("\n"), *missing]
    aside = ROOT / f".env.{os.getpid()}"
    with open(os.open(aside, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600), "w", errors="surrogateescape") as file:
        file.write("\n".join(lines) + "\n")
    aside.rename(env_file)


def stamp() -> str:
    """A digest of what set-up depends on: the lists of what is installed, and the folder of the clone."""
    lists = [ROOT / name for name in ("pyproject.toml", "uv.lock", "jars.xml")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in lists) + str(ROOT).encode()).hexdigest()


def is_ready() -> bool:
    """Whether the last finished set-up was for the same lists and folder."""
    ready = TOOLS / "ready"
    return ready.exists() and ready.read_text() == stamp() and (ROOT / ".venv" / "bin" / "python").exists()


def install(java: str) -> None:
    """Install Python packages, jars, PostgreSQL and the git filter; about two minutes when nothing is cached."""
    started = time.monotonic()
    TOOLS.mkdir(exist_ok=True)
    uv = TOOLS / "uv"
    try:
        if not (uv / "bin" / "uv").exists():
            step("uv")
            run([sys.executable, "-m", "venv", str(uv)])
            run([str(uv / "bin" / "python"), "-m", "pip", "install", "--quiet", f"uv=={UV_VERSION}"])
        step("Python packages, from uv.lock")
        # compiled now, and not in each kernel: later the environment may forbid Python to write byte code
        env = os.environ | {"UV_PROJECT_ENVIRONMENT": ".venv", "UV_COMPILE_BYTECODE": "1"}
        env.pop("VIRTUAL_ENV", None)
        run(
            [str(uv / "bin" / "python"), "-m", "uv", "sync", "--frozen", "--quiet", "--python", sys.executable], env=env
        )
        resolve_jars(java)
    except subprocess.CalledProcessError as error:
        fail(
            f"set-up stopped at: {' '.join(map(str, error.cmd[:6]))} … (exit {error.returncode}, its message is above). "
            "Is the network up? The same command goes on where this one stopped"
        )
    set_git_filter()
    (TOOLS / "ready").write_text(stamp())
    step(f"done in {time.monotonic() - started:.0f} s")


def resolve_jars(java: str) -> None:
    """Fetch what `jars.xml` lists with pyspark's own Ivy, and unpack PostgreSQL, unless that was done for the same list."""
    listed = hashlib.sha256((ROOT / "jars.xml").read_bytes()).hexdigest()
    resolved = TOOLS / "jars.sha256"
    if resolved.exists() and resolved.read_text() == listed:
        return
    step("jars and PostgreSQL, from jars.xml")
    fetch_jars(java)
    shutil.rmtree(TOOLS / "postgres", ignore_errors=True)
    unpack = "import lib.stack.postgres as p; p.unpack()"
    run([str(ROOT / ".venv" / "bin" / "python"), "-c", unpack])
    resolved.write_text(listed)


def fetch_jars(java: str, *configurations: str) -> None:
    """Fetch what `jars.xml` lists into a folder per configuration: all of them, or those that are named."""
    ivy = next((ROOT / ".venv").glob("lib/python*/site-packages/pyspark/jars/ivy-*.jar"))
    artefact = "embedded-postgres-binaries-" + POSTGRES[platform.system(), platform.machine()]
    TOOLS.mkdir(exist_ok=True)
    (TOOLS / "jars.xml").write_text((ROOT / "jars.xml").read_text().replace("@POSTGRES@", artefact))
    shutil.rmtree(TOOLS / "jars", ignore_errors=True)
    command = [java, "-jar", str(ivy), "-warn", "-cache", ".tools/ivy", "-ivy", ".tools/jars.xml"]
    command += ["-confs", *configurations] if configurations else []
    run([*command, "-retrieve", ".tools/jars/[conf]/[artifact]-[revision].[ext]"])


def set_git_filter() -> None:
    """Let git strip the outputs of notebooks when they are added; outside a git checkout there is nothing to do."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        filters = {"clean": ".venv/bin/nbstripout", "smudge": "cat"}
        for name, value in filters.items():
            run(["git", "config", f"filter.nbstripout.{name}", value])
        run(["git", "config", "diff.ipynb.textconv", ".venv/bin/nbstripout -t"])


def run(command: list[str], **options: object) -> None:
    """Run a command of the set-up in the clone; its messages are shown only when it fails."""
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)  # type: ignore[call-overload]
    if done.returncode:
        sys.stderr.write(done.stdout[-4000:])
        raise subprocess.CalledProcessError(done.returncode, command)


def step(text: str) -> None:
    """Say what set-up is doing."""
    print(f"set-up: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
