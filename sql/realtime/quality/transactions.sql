-- Rules of transactions, beside those of events.sql.

-- name: total_of_the_lines()
-- The event's own total is the sum of its lines, to the cent.
with totals as (
    select
        t.transaction_id,
        t.total_amount,
        (
            select sum(round(line.quantity * line.price, 2))
            from jsonb_to_recordset(t.products) as line (quantity integer, price numeric(18, 4))
        ) as total_of_lines
    from loaded as t
)

select *
from totals
where total_amount <> total_of_lines;

-- name: plausible_lines()
-- An order has at most 100 lines, each of at most 1000 pieces.
select
    t.transaction_id,
    jsonb_array_length(t.products) as lines
from loaded as t
where
    jsonb_array_length(t.products) > 100
    or exists (
        select from jsonb_to_recordset(t.products) as line (quantity integer)
        where line.quantity > 1000
    );
