-- Rules of fact_sales, beside those of facts.sql. Constraints hold its quantities, prices and amounts.

-- name: rows_of_the_ledger(ledger_rows)
-- There are as many transactions as the ledger counts in these batches, held ones left out.
select
    :ledger_rows as transactions_in_ledger,
    count(distinct transaction_id) as transactions_found
from loaded
having count(distinct transaction_id) <> :ledger_rows;

-- name: order_lines()
-- The lines of an order are numbered from 1, without a gap.
with numbered as (
    select
        event_id,
        transaction_id,
        row_number() over (partition by transaction_id order by length(event_id), event_id) as line
    from loaded
)

select
    event_id,
    transaction_id,
    line
from numbered
where event_id <> transaction_id || ':' || line;
