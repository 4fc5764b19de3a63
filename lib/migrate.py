"""Forward-only migrations: the numbered files of `sql/<database>/`, each in one transaction with its ledger row."""

import hashlib
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor
from psycopg2.extensions import parse_dsn
from pydantic import SecretStr

from lib import servers
from lib.settings import ROOT, Settings

ROLE = {"realtime": "globalmart_saver", "warehouse": "globalmart_etl"}
"""The group role of each database, to which its migrations grant the rights that jobs need."""

READERS = "globalmart_reader"
"""The group role that reads what is served, in both databases."""

LEDGER = """
create schema if not exists ops;
create table if not exists ops.migrations (
    file text primary key,
    sha256 text not null,
    applied_at timestamptz not null default clock_timestamp()
);
"""


class MigrationError(Exception):
    """A migration can't be applied, or an applied one was changed; the message names the file and says what to do."""


def migrate(config: Settings, database: str, folder: Path | None = None) -> list[str]:
    """Apply what is missing of `sql/<database>/` in the order of the names, and return the files applied.

    Each file commits together with its row in `ops.migrations`. Applying again does nothing. The user of the jobs and the
    reader are made members of the database's group roles.

    Raises
    ------
    MigrationError
        When an applied file was changed or is gone, or a file fails (then nothing of it is applied).
    """
    files = sorted((folder or ROOT / "sql" / database).glob("*.sql"))
    connection = servers.connect(config.address(database, admin=True))
    applied = []
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("select pg_advisory_xact_lock(hashtext('globalmart migrations'))")
            cursor.execute(LEDGER)
            cursor.execute("select file, sha256 from ops.migrations")
            known = dict(cursor.fetchall())
        _refuse_changes(files, known)
        for file in files:
            if file.name not in known and _apply(connection, file):
                applied.append(file.name)
        with connection, connection.cursor() as cursor:
            _grant(cursor, ROLE[database], config.address(database))
            _grant(cursor, READERS, config.address(database, reader=True))
    finally:
        connection.close()
    return applied


def link(config: Settings) -> None:
    """Tell the warehouse's server where the realtime database is, and as whom to read it: the views of `serving` need it.

    Nothing is done where that is known already. The addresses are those of the settings, as the warehouse's server sees
    them, too.
    """
    place = parse_dsn(config.address("realtime", reader=True).get_secret_value())
    where = {"host": place["host"], "port": place.get("port", "5432"), "dbname": place["dbname"]}
    whom = {"user": place["user"], "password": place.get("password", "")}
    with (
        closing(servers.connect(config.address("warehouse", admin=True))) as connection,
        connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("select pg_advisory_xact_lock(hashtext('globalmart migrations'))")
        cursor.execute("select srvoptions from pg_foreign_server where srvname = 'realtime'")
        if where.items() - _options(cursor.fetchone()).items():
            cursor.execute(sql.SQL("alter server realtime options ({})").format(_listed(where, sql.SQL("set {} {}"))))
        cursor.execute("select umoptions from pg_user_mappings where srvname = 'realtime' and usename = current_user")
        if whom.items() - _options(cursor.fetchone()).items():
            cursor.execute("drop user mapping if exists for current_user server realtime")
            cursor.execute(
                sql.SQL("create user mapping for current_user server realtime options ({})").format(
                    _listed(whom, sql.SQL("{} {}"))
                )
            )


def _options(row: tuple[list[str], ...] | None) -> dict[str, str]:
    return dict(option.split("=", 1) for option in row[0] or ()) if row else {}


def _listed(options: Mapping[str, str], each: sql.SQL) -> sql.Composable:
    return sql.SQL(", ").join(each.format(sql.Identifier(name), sql.Literal(value)) for name, value in options.items())


def _grant(cursor: Cursor, role: str, address: SecretStr) -> None:
    """Make the user of an address a member of a role, unless it is the user that is logged in."""
    user = parse_dsn(address.get_secret_value())["user"]
    cursor.execute("select current_user = %s", [user])
    if cursor.fetchone() == (False,):
        cursor.execute(sql.SQL("grant {} to {}").format(sql.Identifier(role), sql.Identifier(user)))


def _refuse_changes(files: list[Path], known: dict[str, str]) -> None:
    present = {file.name: _digest(file) for file in files}
    for name, digest in known.items():
        if present.get(name) != digest:
            what = "was changed after it was applied" if name in present else "was applied and is gone"
            raise MigrationError(
                f"sql: {name} {what}; restore it, and put the change into a new file with a higher number"
            )


def _apply(connection: "psycopg2.extensions.connection", file: Path) -> bool:
    """Apply one file with its ledger row; False when another process has just done so."""
    with connection, connection.cursor() as cursor:
        try:
            cursor.execute("select pg_advisory_xact_lock(hashtext('globalmart migrations'))")
            cursor.execute("select from ops.migrations where file = %s", [file.name])
            if cursor.rowcount:
                return False
            cursor.execute(file.read_text())
            cursor.execute("insert into ops.migrations (file, sha256) values (%s, %s)", [file.name, _digest(file)])
        except psycopg2.Error as error:
            raise MigrationError(f"sql: {file.name} failed, and nothing of it was applied: {error}") from error
    return True


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
