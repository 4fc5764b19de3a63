-- the lines of orders as a table, for Spark: PostgreSQL takes them apart and gives the declared fields their types
-- whatever else a line holds, however large or deep, isn't read; Spark's JSON reader would drop all lines for it
create view order_lines as
select
    orders.transaction_id,
    line.number::integer as line,
    orders.user_id,
    orders.country,
    orders.transaction_timestamp,
    line.value ->> 'product_id' as product_id,
    line.value ->> 'category' as category,
    (line.value ->> 'quantity')::integer as quantity,
    (line.value ->> 'price')::numeric(18, 4) as unit_price,
    round((line.value ->> 'quantity')::integer * (line.value ->> 'price')::numeric(18, 4), 2)::numeric(
        18, 2
    ) as total_amount,
    orders.ingest_batch_id
from transactions as orders
cross join lateral jsonb_array_elements(orders.products) with ordinality as line (value, number);

grant select on order_lines to globalmart_saver;
