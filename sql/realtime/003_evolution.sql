-- new fields become columns while the savers run; duplicates with another payload are told apart

-- nobody looks for views and carts by user here, and each took a quarter of the time that writing their rows takes
drop index idx_product_view_events_user;
drop index idx_cart_events_user;

alter table ops.ingest_batches add column conflicts bigint not null default 0;
alter table ops.ingest_batches add constraint ingest_batches_conflicts_check
check (conflicts >= 0 and conflicts <= duplicates);

-- <table>_full: the table, and in an added column also what older rows keep of it in extra, where its type is the same
create function ops.build_full_view(target text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    columns text;
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
    where attribute.attrelid = format('public.%I', target)::regclass
        and attribute.attnum > 0
        and not attribute.attisdropped;
    execute format('create or replace view public.%I as select %s from public.%I', target || '_full', columns, target);
    execute format('grant select on public.%I to globalmart_saver', target || '_full');
end
$$;

-- the savers don't own the tables: this is all that they may change of them
create function ops.add_columns(target text, names text[], types text[], batch bigint) returns void
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
    if (select count(*) from ops.schema_changes where source_table = target) + cardinality(names) > 32 then
        raise exception '% may have 32 added columns', target;
    end if;
    select string_agg(format('add column %I %s', name, type), ', ' order by place)
    into additions
    from unnest(names, types) with ordinality as field (name, type, place);
    execute format('alter table public.%I %s', target, additions);
    -- a column that was dropped by hand comes back
    insert into ops.schema_changes (source_table, column_name, column_type, ingest_batch_id)
    select target, name, type, batch from unnest(names, types) as field (name, type)
    on conflict (source_table, column_name) do update
        set column_type = excluded.column_type, ingest_batch_id = excluded.ingest_batch_id, created_at = excluded.created_at;
    perform ops.build_full_view(target);
end
$$;

revoke execute on function ops.build_full_view, ops.add_columns from public;
grant execute on function ops.add_columns to globalmart_saver;

select ops.build_full_view(source_table) from ops.ingest_heads;
