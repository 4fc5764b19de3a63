-- old rows of the ledger become ranges: a row stands for so many batches, the last of which is ingest_batch_id, so that
-- the batches of all rows up to one add up to its number
alter table ops.ingest_batches add column batches bigint not null default 1
check (batches > 0 and batches <= ingest_batch_id);

-- how far each ledger is merged; not in ingest_heads, whose rows the savers lock
create table ops.merge_heads (
    source_table text primary key references ops.ingest_heads,
    last_batch bigint not null default 0
);

insert into ops.merge_heads (source_table) select source_table from ops.ingest_heads;

-- merges the rows that come next, at most so many and up to the last boundary; returns the batch that it has come to
-- a range is of one query and epoch, each of its batches begins where the one before ended, and no boundary crosses it
-- its last row stays and takes the sums: an insert would lock the head by its foreign key, and keep the saver waiting
create function ops.merge_batches(target text, boundaries bigint[], portion integer) returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    thresholds bigint[] := array(select distinct batch from unnest(boundaries) as batch order by batch);
    upto bigint := thresholds[cardinality(thresholds)];
    merged bigint;
    reached bigint;
begin
    select last_batch into merged from ops.merge_heads where source_table = target for update;
    if not found then
        raise exception '% is no table of events', target;
    end if;
    if upto is null or upto <= merged then
        return merged;
    end if;
    select case when count(*) < portion then upto else max(ingest_batch_id) end
    into reached
    from (
        select ingest_batch_id from ops.ingest_batches
        where source_table = target and ingest_batch_id > merged and ingest_batch_id <= upto
        order by ingest_batch_id
        limit portion
    ) as next;

    -- the last range of the portion before may go on
    with stretches as (
        select *, width_bucket(ingest_batch_id - 1, thresholds) as stretch
        from ops.ingest_batches
        where source_table = target and ingest_batch_id between merged and reached
    ),

    starts as (
        select
            *,
            (stretch, query_id, epoch, start_offsets, ingest_batch_id - batches) is distinct from (
                lag(stretch) over ledger, lag(query_id) over ledger, lag(epoch) over ledger,
                lag(end_offsets) over ledger, lag(ingest_batch_id) over ledger
            ) as is_first
        from stretches
        window ledger as (order by ingest_batch_id)
    ),

    rows_of_ranges as (
        select
            *,
            count(*) filter (where is_first) over ledger as range,
            lead(is_first, 1, true) over ledger as is_last
        from starts
        window ledger as (order by ingest_batch_id)
    ),

    sums as (
        select
            range,
            max(ingest_batch_id) as ingest_batch_id,
            sum(batches) as batches,
            (array_agg(start_offsets) filter (where is_first))[1] as start_offsets,
            sum(offset_gaps) as offset_gaps,
            sum(rows_in) as rows_in,
            sum(rows_written) as rows_written,
            sum(duplicates) as duplicates,
            sum(conflicts) as conflicts,
            sum(dead_letters) as dead_letters,
            sum(latency_seconds) as latency_seconds,
            min(first_event_at) as first_event_at,
            max(last_event_at) as last_event_at
        from rows_of_ranges
        group by range
        having count(*) > 1
    ),

    counts as (
        select range, partition.key as partition, count.key as name, sum(count.value::bigint)::bigint as total
        from rows_of_ranges, jsonb_each(by_partition) as partition, jsonb_each_text(partition.value) as count
        group by range, partition.key, count.key
    ),

    partitions as (
        select range, jsonb_object_agg(partition, totals) as by_partition
        from (
            select range, partition, jsonb_object_agg(name, total) as totals from counts group by range, partition
        ) as each_partition
        group by range
    ),

    buckets as (
        select range, jsonb_object_agg(bound, events) as latency_buckets
        from (
            select range, bucket.key as bound, sum(bucket.value::bigint)::bigint as events
            from rows_of_ranges, jsonb_each_text(latency_buckets) as bucket
            group by range, bucket.key
        ) as each_bucket
        group by range
    ),

    gone as (
        delete from ops.ingest_batches
        where source_table = target and ingest_batch_id between merged and reached
            and ingest_batch_id in (select ingest_batch_id from rows_of_ranges where not is_last)
    )

    update ops.ingest_batches as ledger
    set
        batches = sums.batches,
        start_offsets = sums.start_offsets,
        offset_gaps = sums.offset_gaps,
        rows_in = sums.rows_in,
        rows_written = sums.rows_written,
        duplicates = sums.duplicates,
        conflicts = sums.conflicts,
        dead_letters = sums.dead_letters,
        by_partition = coalesce(partitions.by_partition, '{}'),
        latency_buckets = coalesce(buckets.latency_buckets, '{}'),
        latency_seconds = sums.latency_seconds,
        first_event_at = sums.first_event_at,
        last_event_at = sums.last_event_at
    from sums
    left join partitions using (range)
    left join buckets using (range)
    where ledger.source_table = target and ledger.ingest_batch_id between merged and reached
        and ledger.ingest_batch_id = sums.ingest_batch_id;

    update ops.merge_heads set last_batch = reached where source_table = target;
    return reached;
end
$$;

grant select on ops.merge_heads to globalmart_saver;
revoke execute on function ops.merge_batches from public;
grant execute on function ops.merge_batches to globalmart_saver;
