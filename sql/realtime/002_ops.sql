-- where ingestion stands, its receipts, and what could not be stored
create table ops.ingest_heads (
    source_table text primary key check (source_table in ('transactions', 'product_view_events', 'cart_events')),
    epoch bigint not null default 0,
    last_batch bigint not null default 0,
    end_offsets jsonb not null default '{}',
    session_id text,
    heartbeat_at timestamptz
);

insert into ops.ingest_heads (source_table) values ('transactions'), ('product_view_events'), ('cart_events');

-- offsets and counts per partition are objects, partition -> number
create table ops.ingest_batches (
    source_table text not null references ops.ingest_heads,
    ingest_batch_id bigint not null check (ingest_batch_id > 0),
    epoch bigint not null,
    query_id text not null,
    spark_batch_id bigint not null,
    start_offsets jsonb not null,
    end_offsets jsonb not null,
    offset_gaps bigint not null check (offset_gaps >= 0),
    rows_in bigint not null check (rows_in > 0),
    rows_written bigint not null check (rows_written >= 0),
    duplicates bigint not null check (duplicates >= 0),
    dead_letters bigint not null check (dead_letters >= 0),
    by_partition jsonb not null,
    latency_buckets jsonb not null,
    first_event_at timestamptz,
    last_event_at timestamptz,
    committed_at timestamptz not null default clock_timestamp(),
    primary key (source_table, ingest_batch_id),
    check (rows_in = rows_written + duplicates + dead_letters),
    check ((rows_written = 0) = (last_event_at is null))
);

create table ops.dead_letters (
    dead_letter_id bigint generated always as identity primary key,
    topic text not null,
    kafka_partition integer not null,
    kafka_offset bigint not null,
    message_key bytea,
    payload bytea,
    reason text not null,
    detail text not null,
    source_table text not null references ops.ingest_heads,
    ingest_batch_id bigint not null,
    created_at timestamptz not null default clock_timestamp(),
    replayed_at timestamptz,
    unique (topic, kafka_partition, kafka_offset)
);

create table ops.schema_changes (
    source_table text not null references ops.ingest_heads,
    column_name text not null,
    column_type text not null,
    ingest_batch_id bigint not null,
    created_at timestamptz not null default clock_timestamp(),
    primary key (source_table, column_name)
);

grant usage on schema ops to globalmart_saver;
grant select, update on ops.ingest_heads to globalmart_saver;
grant select, insert on ops.ingest_batches, ops.schema_changes to globalmart_saver;
grant select, insert, update on ops.dead_letters to globalmart_saver;
