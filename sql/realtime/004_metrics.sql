-- what the metrics ask for: the sum of the latencies that the buckets count, and the dead letters of a range of batches
alter table ops.ingest_batches add column latency_seconds double precision not null default 0
check (latency_seconds >= 0);

create index idx_dead_letters_batch on ops.dead_letters (source_table, ingest_batch_id);
