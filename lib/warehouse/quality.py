"""Rules of data quality: queries in `sql/*/quality/` that find the rows that break them, run where the load runs.

Rules of the warehouse cover what the ETL made. They are hard, and see the load's own transaction: a broken one ends the
load, and nothing of it is committed. Rules of the realtime database cover the events of the load's batches. They are
soft: they show in the report and in `ops.data_quality`, and stop nothing.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import aiosql
import pandas as pd
import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection
from psycopg2.extras import Json, execute_values

from lib import database, report
from lib.schemas import CONTRACTS
from lib.settings import ROOT, settings
from lib.warehouse import culprits, held
from lib.warehouse.fact import Fact
from lib.warehouse.load import Load
from lib.warehouse.scd2 import Dimension

Severity = Literal["hard", "soft"]

SEVERITY: dict[str, Severity] = {"warehouse": "hard", "realtime": "soft"}

EXAMPLES = 3
"""Rows that are kept of those that break a rule."""

LOOKED_AT = 1000
"""Rows that are looked at for the events that they are about, where a broken rule ends the load."""

_FIND = sql.SQL(
    "with {scope}, failed as materialized ({rule}) select count(*),"
    " (select coalesce(jsonb_agg(found), '[]') from (select * from failed limit {most}) as found) from failed"
)


class BrokenRule(Exception):
    """What the ETL made breaks a hard rule; the message names it, with the number of rows and a few of them."""


@dataclass(frozen=True)
class Rule:
    """A query that finds the rows that break it; `sentence` says what holds."""

    name: str
    sentence: str
    severity: Severity
    query: str


@dataclass(frozen=True)
class Finding:
    """How many rows break a rule, and some of them; of a hard rule so many that the events can be told."""

    rule: Rule
    rows: int
    found: list[dict[str, Any]]

    @property
    def examples(self) -> list[dict[str, Any]]:
        """A few of the rows, for people."""
        return self.found[:EXAMPLES]

    def __str__(self) -> str:
        counted = "1 row" if self.rows == 1 else f"{self.rows:,} rows"
        return f"{self.rule.name} ({self.rule.sentence}): {counted}, such as {_brief(self.examples)}"


# --- for notebooks


def check(load: Load, table: str, staged: str = "") -> None:
    """Check the rules of a table; they see the table `staged` of this load, if it is given.

    Shows the findings, and stores them with `publish`. A broken hard rule ends the load.

    Raises
    ------
    BrokenRule
        When a hard rule is broken. The load is rolled back and closed; the findings stay in `ops.data_quality`.
    """
    _conclude(load, table, about_table(load, table, staged))


def check_dimension(load: Load, dimension: Dimension, staged: str) -> None:
    """Check the rules of a dimension, over the keys of this load: `staged` has each with its `first_date`.

    As `check`, which see.
    """
    with closing(database.connect("realtime")) as realtime:
        holds = about_held(realtime, load, list(CONTRACTS))
    (key,) = dimension.key

    def culprits_of(broken: Sequence[Finding]) -> dict[str, list[str]]:
        keys = {row["key"] for finding in broken for row in finding.found if row.get("key")}
        return culprits.of_keys(load, key, sorted(keys)) if keys else {}

    _conclude(load, dimension.table, [*about_dimension(load, dimension, staged), *holds], culprits_of)


def check_fact(load: Load, fact: Fact, read_rows: int) -> None:
    """Check the rules of a fact over the batches of this load, of which `read_rows` rows were read, and of their events.

    As `check`, which see.
    """
    with closing(database.connect("realtime")) as realtime:
        sums = held.sums(realtime, load, fact.source)
        events = about_events(realtime, load, fact)
    if sums.held or sums.released:
        shown = {"in the ledger": sums.in_ledger, "held": sums.held, "released": sums.released, "read": sums.expected}
        report.table(pd.DataFrame([shown]), caption=f"Events of {fact.source} in the batches of this load")

    def culprits_of(broken: Sequence[Finding]) -> dict[str, list[str]]:
        told = [culprits.of_examples(fact.source, finding.found) for finding in broken]
        counted = [] if all(told) else culprits.missing(load, fact.table, fact.source)
        return {fact.source: list(dict.fromkeys(event for events in [*told, counted] for event in events))}

    findings = [*about_fact(load, fact, read_rows, sums.expected), *events]
    _conclude(load, fact.table, findings, culprits_of)


# --- what the rules find


def about_table(load: Load, table: str, staged: str = "") -> list[Finding]:
    """What the rules of a table find."""
    return find(load.connection, read_rules("warehouse", table), _staged(staged), _parameters(load))


def about_dimension(load: Load, dimension: Dimension, staged: str) -> list[Finding]:
    """What the rules of a dimension find among the versions of the staged keys."""
    (key,) = map(sql.Identifier, dimension.key)
    scope = sql.SQL(
        "staged as (select {key} as key, first_date from staging.{staged}),"
        " versions as not materialized (select {key} as key, {columns} from {table}),"
        " loaded as (select key, {columns} from versions where key in (select key from staged))"
    ).format(
        key=key,
        columns=sql.SQL(", ").join(map(sql.Identifier, dimension.columns)),
        staged=sql.Identifier(staged),
        table=sql.Identifier(dimension.table),
    )
    rules = read_rules("warehouse", "dimensions", dimension.table)
    return find(load.connection, rules, scope, _parameters(load))


def about_fact(load: Load, fact: Fact, read_rows: int, ledger_rows: int) -> list[Finding]:
    """What the rules of a fact find among the rows of this load's batches."""
    parameters = _parameters(load) | {"read_rows": read_rows, "ledger_rows": ledger_rows}
    scope = _loaded(load, fact, sql.Identifier(fact.table), fact.time, fact.all_columns)
    return find(load.connection, read_rules("warehouse", "facts", fact.table), scope, parameters)


def about_events(realtime: Connection, load: Load, fact: Fact) -> list[Finding]:
    """What the rules of a fact's events find in this load's batches."""
    after, upto = load.window.unread(fact.source)
    made = "select coalesce((select created_at from ops.cuts where cut_id = %s), clock_timestamp()) as at"
    parameters = _parameters(load) | {
        "source": fact.source,
        "after": after,
        "upto": upto,
        "cut_at": load.query(made, load.cut.cut_id).iloc[0, 0],
        "job": load.job,
        "sources": [fact.source],
    }
    contract = CONTRACTS[fact.source]
    columns = (*contract.columns, "kafka_partition", "kafka_offset", "ingest_batch_id")
    scope = _loaded(load, fact, held.source(load, fact.source), contract.time, columns)
    return find(realtime, read_rules("realtime", "events", fact.source), scope, parameters)


def about_held(realtime: Connection, load: Load, sources: Sequence[str]) -> list[Finding]:
    """What the rule about held events finds in some realtime tables."""
    rules = [rule for rule in read_rules("realtime", "events") if rule.name == "nothing_held"]
    return find(realtime, rules, sql.SQL("loaded as (select)"), {"job": load.job, "sources": list(sources)})


def read_rules(database: str, *files: str) -> list[Rule]:
    """The rules in files of `sql/<database>/quality/`, a rule being a named query with its sentence as a comment."""
    folder = ROOT / "sql" / database / "quality"
    found = []
    for file in files:
        queries = aiosql.from_path(folder / f"{file}.sql", "psycopg2")
        names = [name for name in queries.available_queries if not name.endswith("_cursor")]
        for query in [getattr(queries, name) for name in names]:
            found.append(Rule(query.__name__, query.__doc__, SEVERITY[database], query.sql.rstrip().rstrip(";")))
    return found


def find(
    connection: Connection, rules: Sequence[Rule], scope: sql.Composable, parameters: Mapping[str, Any]
) -> list[Finding]:
    """Run the rules as the connection's transaction sees the tables; `scope` are the CTEs that they may read."""
    found = []
    with connection.cursor() as cursor:
        for rule in rules:
            most = sql.Literal(LOOKED_AT if rule.severity == "hard" else EXAMPLES)
            query = _FIND.format(scope=scope, rule=sql.SQL(rule.query), most=most)
            cursor.execute(query, parameters)
            row = cursor.fetchone()
            assert row is not None
            found.append(Finding(rule, *row))
    return found


def _parameters(load: Load) -> dict[str, Any]:
    """The cut's run date, the day that was open before it, and for each realtime table the batches `(after, upto]`."""
    windows = {table: load.window.unread(table) for table in CONTRACTS}
    after = {f"{table}_after": window[0] for table, window in windows.items()}
    upto = {f"{table}_upto": window[1] for table, window in windows.items()}
    return {"run_date": load.cut.run_date, "open_day": load.window.settled_before, **after, **upto}


def _staged(staged: str) -> sql.Composable:
    source = sql.SQL("select * from staging.{}").format(sql.Identifier(staged)) if staged else sql.SQL("select")
    return sql.SQL("staged as ({})").format(source)


def _loaded(load: Load, fact: Fact, table: sql.Composable, time: str, columns: Iterable[str]) -> sql.Composable:
    """The rows of this load's batches. Columns are named: one that an event's field brought may be called like ours."""
    after, upto = map(sql.Literal, load.window.unread(fact.source))
    return sql.SQL(
        "loaded as (select {columns}, {time} as happened_at from {table}"
        " where ingest_batch_id > {after} and ingest_batch_id <= {upto})"
    ).format(
        columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
        time=sql.Identifier(time),
        table=table,
        after=after,
        upto=upto,
    )


# --- what becomes of it


def _conclude(
    load: Load,
    table: str,
    findings: Sequence[Finding],
    culprits_of: Callable[[Sequence[Finding]], dict[str, list[str]]] = lambda broken: {},
) -> None:
    """Show the findings and, with `publish`, store them: with the load, or on their own when a hard rule ends it.

    `culprits_of` gives for broken rules the events that break them, by table, as far as can be told.
    """
    report.table(_for_people(findings), caption=f"Rules of {table}", limit=len(findings))
    broken = [finding for finding in findings if finding.rows and finding.rule.severity == "hard"]
    if not broken:
        load.checked = True
        if load.publish:
            _store(load.connection, load.job, findings)
        return
    why = "; ".join(map(str, broken))
    try:
        events = {source: found for source, found in culprits_of(broken).items() if found}
    except psycopg2.Error as error:
        events, why = {}, f"{why}; on which events couldn't be asked: {' '.join(str(error).split())}"
    load.abandon()
    if load.publish:
        with closing(database.connect("warehouse")) as own, own:
            _store(own, load.job, findings)
    raise BrokenRule(culprits.message(f"{table} breaks its rules", f"the load was rolled back: {why}", events))


def _store(connection: Connection, job: str, findings: Sequence[Finding]) -> None:
    run = settings().run_id or f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{job.rpartition('/')[2]}-by-hand"
    rows = [(run, job, each.rule.name, each.rule.severity, each.rows, Json(each.examples)) for each in findings]
    insert = "insert into ops.data_quality (run_id, job, rule, severity, failed_rows, examples) values %s"
    with connection.cursor() as cursor:
        execute_values(cursor, insert, rows)


def _for_people(findings: Sequence[Finding]) -> pd.DataFrame:
    rows = [
        {
            "": "holds" if not each.rows else "broken" if each.rule.severity == "hard" else "look",
            "rule": each.rule.sentence,
            "kind": each.rule.severity,
            "rows": each.rows,
            "such as": _brief(each.examples[:1]),
        }
        for each in findings
    ]
    return pd.DataFrame(rows)


def _brief(examples: Sequence[Mapping[str, Any]]) -> str:
    return " · ".join(", ".join(f"{name} {value}" for name, value in row.items()) for row in examples)
