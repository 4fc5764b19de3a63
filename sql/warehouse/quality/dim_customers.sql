-- Rules of dim_customers, beside those of dimensions.sql.

-- name: totals()
-- Without a transaction there is neither a date nor a total; with one the first isn't after the last.
select
    key,
    effective_date,
    total_transactions,
    total_spent,
    first_transaction_date,
    last_transaction_date
from loaded
where
    total_transactions < 0
    or total_spent < 0
    or (total_transactions = 0 and total_spent <> 0)
    or (total_transactions = 0) <> (first_transaction_date is null)
    or (first_transaction_date is null) <> (last_transaction_date is null)
    or first_transaction_date > last_transaction_date;

-- name: average()
-- The average order value is what was spent ÷ transactions.
select
    key,
    effective_date,
    total_transactions,
    total_spent,
    avg_order_value
from loaded
where
    abs(avg_order_value * greatest(total_transactions, 1) - total_spent::double precision)
    > 1e-9 * greatest(total_spent::double precision, 1);
