-- columns that somebody drops or retypes by hand must not stop a saver: a column that comes back takes no second place,
-- and the view is made anew where it can't be replaced
create or replace function ops.build_full_view(target text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    columns text;
    query text;
begin
    select string_agg(
        case
            when change.column_name is null then format('%I', attribute.attname)
            else format(
                'coalesce(%1$I, case jsonb_typeof(extra -> %1$L) when %2$L then (extra ->> %1$L)::%3$s end) as %1$I',
                attribute.attname,
                case change.column_type when 'text' then 'string' when 'numeric' then 'number' else 'boolean' end,
                change.column_type
            )
        end,
        ', ' order by attribute.attnum
    )
    into columns
    from pg_attribute as attribute
    left join ops.schema_changes as change
        on change.source_table = target and change.column_name = attribute.attname
        and change.column_type = format_type(attribute.atttypid, attribute.atttypmod)
    where attribute.attrelid = format('public.%I', target)::regclass
        and attribute.attnum > 0
        and not attribute.attisdropped;
    query := format('view public.%I as select %s from public.%I', target || '_full', columns, target);
    begin
        execute 'create or replace ' || query;
    exception when invalid_table_definition then
        execute format('drop view public.%I', target || '_full');
        execute 'create ' || query;
    end;
    execute format('grant select on public.%I to globalmart_saver', target || '_full');
end
$$;

create or replace function ops.add_columns(target text, names text[], types text[], batch bigint) returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
-- a long reader never stops ingestion
set lock_timeout = '50ms'
as $$
declare
    additions text;
begin
    if not exists (select from ops.ingest_heads where source_table = target) then
        raise exception '% is no table of events', target;
    end if;
    if exists (
        select from unnest(names, types) as field (name, type)
        where (name ~ '^[a-z][a-z0-9_]{0,62}$' and type in ('boolean', 'text', 'numeric')) is not true
    ) then
        raise exception 'names have to be like [a-z][a-z0-9_]{0,62}, types boolean, text or numeric: % %', names, types;
    end if;
    -- a column that was dropped by hand has kept its place
    if (
        select count(*) from ops.schema_changes where source_table = target and column_name <> all (names)
    ) + cardinality(names) > 32 then
        raise exception '% may have 32 added columns', target;
    end if;
    select string_agg(format('add column %I %s', name, type), ', ' order by place)
    into additions
    from unnest(names, types) with ordinality as field (name, type, place);
    execute format('alter table public.%I %s', target, additions);
    insert into ops.schema_changes (source_table, column_name, column_type, ingest_batch_id)
    select target, name, type, batch from unnest(names, types) as field (name, type)
    on conflict (source_table, column_name) do update
        set column_type = excluded.column_type, ingest_batch_id = excluded.ingest_batch_id, created_at = excluded.created_at;
    perform ops.build_full_view(target);
end
$$;
