-- Rules of every kind of event. `loaded` is what the batches of this load hold, `happened_at` the event's time.

-- name: fresh(cut_at, source, upto)
-- The last batch was at most an hour old when the cut was made: the saver is at work.
select
    max(committed_at) as last_committed_at,
    :cut_at as cut_at
from ops.ingest_batches
where source_table = :source and ingest_batch_id <= :upto and rows_in > 0
having coalesce(max(committed_at), '-infinity') < :cut_at - interval '1 hour';

-- name: no_dead_letters(source, after, upto)
-- No batch had a message that couldn't be stored.
select
    ingest_batch_id,
    dead_letters
from ops.ingest_batches
where source_table = :source and ingest_batch_id > :after and ingest_batch_id <= :upto and dead_letters > 0;

-- name: on_time(open_day)
-- No event is from before the day that was open when the last load ended.
select
    kafka_partition,
    kafka_offset,
    happened_at
from loaded
where happened_at < :open_day::timestamp at time zone 'UTC';

-- name: has_a_country()
-- The event says from which country it comes.
select
    kafka_partition,
    kafka_offset
from loaded
where coalesce(country, '') = '';

-- name: nothing_held(job, sources)
-- No stored event is put aside: the load sees all of them.
select
    source_table,
    event_id,
    why
from ops.held_events
where source_table = any(:sources) and released_batch is null and (loaded_by ->> :job) is null;
