-- events that loads go on without: put aside by somebody, and released later into a batch of their own
-- loaded_by has the jobs that had loaded the event before, each with the batch under which it had: they keep it
-- the others find it in released_batch, once that is set; the jobs' role only reads: the schema's owner puts aside
create table ops.held_events (
    source_table text not null references ops.ingest_heads,
    event_id varchar(100) not null,
    why text not null check (why <> ''),
    held_at timestamptz not null default clock_timestamp(),
    loaded_by jsonb not null default '{}',
    released_at timestamptz,
    released_batch bigint check (released_batch > 0),
    primary key (source_table, event_id),
    check ((released_at is null) = (released_batch is null))
);

grant select on ops.held_events to globalmart_saver;

-- a release is a row of the ledger, too: a batch that no message came with, with the span of the released events
alter table ops.ingest_batches
drop constraint ingest_batches_rows_in_check,
drop constraint ingest_batches_check1,
add constraint ingest_batches_rows_in_check check (rows_in > 0 or (rows_in = 0 and query_id like 'release-%')),
add constraint ingest_batches_span_check check (rows_in = 0 or (rows_written = 0) = (last_event_at is null));
