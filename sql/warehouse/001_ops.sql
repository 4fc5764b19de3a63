-- what has run, up to where
-- roles belong to the server, so another database of it may have this one already
do $$
begin
    if not exists (select from pg_roles where rolname = 'globalmart_etl') then
        create role globalmart_etl nologin;
    end if;
end
$$;

create table ops.cuts (
    cut_id bigint generated always as identity primary key,
    run_date date not null,
    transactions bigint not null check (transactions >= 0),
    product_view_events bigint not null check (product_view_events >= 0),
    cart_events bigint not null check (cart_events >= 0),
    created_at timestamptz not null default clock_timestamp()
);

create table ops.watermarks (
    job text primary key,
    cut_id bigint not null references ops.cuts,
    updated_at timestamptz not null default clock_timestamp()
);

create table ops.job_runs (
    run_id text primary key,
    cycle_id text,
    job text not null,
    run_date date not null,
    cut_id bigint references ops.cuts,
    status text not null check (status in ('running', 'done', 'failed', 'skipped', 'killed')),
    attempt integer not null default 1,
    started_at timestamptz not null default clock_timestamp(),
    finished_at timestamptz,
    notebook text,
    report text,
    error text,
    numbers jsonb
);

create index idx_job_runs_job on ops.job_runs (job, started_at);

create table ops.data_quality (
    run_id text not null,
    job text not null,
    rule text not null,
    severity text not null check (severity in ('hard', 'soft')),
    failed_rows bigint not null,
    checked_at timestamptz not null default clock_timestamp(),
    primary key (run_id, rule)
);

-- unlogged staging tables of a run live here
create schema staging;

grant usage on schema ops to globalmart_etl;
grant usage, create on schema staging to globalmart_etl;
grant select, insert on ops.cuts, ops.data_quality to globalmart_etl;
grant select, insert, update on ops.watermarks, ops.job_runs to globalmart_etl;
