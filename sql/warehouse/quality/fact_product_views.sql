-- Rules of fact_product_views, beside those of facts.sql.

-- name: rows_of_the_ledger(ledger_rows)
-- There are as many events as the ledger counts in these batches, held ones left out.
select
    :ledger_rows as events_in_ledger,
    count(*) as events_found
from loaded
having count(*) <> :ledger_rows;

-- name: ranges()
-- The type is `view`, and no duration is negative.
select
    event_id,
    event_type,
    view_duration
from loaded
where event_type <> 'view' or view_duration < 0;
