-- Rules of fact_cart_events, beside those of facts.sql.

-- name: rows_of_the_ledger(ledger_rows)
-- There are as many events as the ledger counts in these batches, held ones left out.
select
    :ledger_rows as events_in_ledger,
    count(*) as events_found
from loaded
having count(*) <> :ledger_rows;

-- name: ranges()
-- The type is one of the four, quantity and amount aren't negative, and there is no amount without a quantity.
select
    event_id,
    event_type,
    quantity,
    total_amount
from loaded
where
    event_type not in ('add', 'remove', 'update', 'checkout')
    or quantity < 0
    or total_amount < 0
    or (quantity is null and total_amount is not null);
