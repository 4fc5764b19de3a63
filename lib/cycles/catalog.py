"""The warehouse's tables by PostgreSQL's catalog: natural keys, references, and columns that say nothing about the data."""

import graphlib
from collections.abc import Mapping
from dataclasses import dataclass

from psycopg2.extensions import connection as Connection

REGISTRY = ("ops.migrations", "ops.cuts", "ops.watermarks", "ops.job_runs", "ops.data_quality", "ops.api_keys")
"""Tables that record what was done. All others can be computed from the realtime tables and the cuts."""

_TABLES = """
select n.nspname || '.' || c.relname as name,
    array(
        select attname::text from pg_attribute
        where attrelid = c.oid and attnum > 0 and not attisdropped and attgenerated = '' order by attnum
    ) as columns,
    array(select attname::text from pg_attribute where attrelid = c.oid and attidentity <> '') as identities,
    array(
        select a.attname::text from pg_attrdef d join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum
        where d.adrelid = c.oid and pg_get_expr(d.adbin, d.adrelid) = 'clock_timestamp()'
    ) as clocks,
    array(
        select jsonb_agg(a.attname order by k.position) from pg_constraint o
        cross join unnest(o.conkey) with ordinality as k (attnum, position)
        join pg_attribute a on a.attrelid = o.conrelid and a.attnum = k.attnum
        where o.conrelid = c.oid and o.contype in ('p', 'u') group by o.contype, o.conname order by o.contype, o.conname
    ) as keys,
    (
        select coalesce(jsonb_object_agg(a.attname, jsonb_build_array(tn.nspname || '.' || t.relname, ta.attname)), '{}')
        from pg_constraint o
        join pg_attribute a on a.attrelid = o.conrelid and a.attnum = o.conkey[1]
        join pg_class t on t.oid = o.confrelid join pg_namespace tn on tn.oid = t.relnamespace
        join pg_attribute ta on ta.attrelid = t.oid and ta.attnum = o.confkey[1]
        where o.conrelid = c.oid and o.contype = 'f' and cardinality(o.conkey) = 1
    ) as refers
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname in ('public', 'ops') and c.relkind in ('r', 'p') and not c.relispartition
order by n.nspname desc, c.relname
"""


@dataclass(frozen=True)
class Table:
    """A table; `name` has its schema, `key` is its natural key, `identities` are its surrogate keys.

    `made_up` are the columns that differ from one load of the same data to another: surrogate keys, the time of writing,
    the cut of a change.
    `refers` has for each foreign key the table and the column that it refers to.
    """

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    identities: frozenset[str]
    made_up: frozenset[str]
    refers: Mapping[str, tuple[str, str]]


def tables(connection: Connection) -> dict[str, Table]:
    """The tables that can be computed from the realtime tables and the cuts, each after those that it refers to.

    Raises
    ------
    LookupError
        For a table without a natural key, whose rows can't be told apart.
    """
    with connection, connection.cursor() as cursor:
        cursor.execute(_TABLES)
        found = {row[0]: _table(*row) for row in cursor.fetchall() if row[0] not in REGISTRY}
    order = {name: [other for other, _ in table.refers.values() if other in found] for name, table in found.items()}
    return {name: found[name] for name in graphlib.TopologicalSorter(order).static_order()}


def _table(
    name: str,
    columns: list[str],
    identities: list[str],
    clocks: list[str],
    keys: list[list[str]],
    refers: dict[str, list[str]],
) -> Table:
    natural = [tuple(key) for key in keys if not set(key) & set(identities)]
    if not natural:
        raise LookupError(f"{name} has no primary key or unique constraint beside its surrogate key")
    to_cuts = {column for column, (table, _) in refers.items() if table == "ops.cuts"}
    return Table(
        name=name,
        columns=tuple(columns),
        key=natural[0],
        identities=frozenset(identities),
        made_up=frozenset({*identities, *clocks, *to_cuts}),
        refers={column: (table, target) for column, (table, target) in refers.items()},
    )
