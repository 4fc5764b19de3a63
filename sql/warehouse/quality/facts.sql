-- Rules of every fact. `loaded` is what the batches of this load brought into it, `happened_at` the event's time.

-- name: rows_read(read_rows)
-- Every row that was read is there, once.
select
    :read_rows as rows_read,
    count(*) as rows_found
from loaded
having count(*) <> :read_rows;

-- name: members_of_the_day()
-- The day is the event's own in UTC, and the versions of customer, product and country are those valid on it.
select
    l.event_id,
    l.happened_at,
    d.date,
    c.effective_date as customer_from,
    c.end_date as customer_until,
    p.effective_date as product_from,
    p.end_date as product_until
from loaded as l
inner join dim_date as d using (date_id)
inner join dim_customers as c using (customer_id)
inner join dim_products as p using (product_id_pk)
inner join dim_geography as g using (geography_id)
where
    d.date <> (l.happened_at at time zone 'UTC')::date
    or d.date < c.effective_date or d.date >= c.end_date
    or d.date < p.effective_date or d.date >= p.end_date
    or d.date < g.effective_date;

-- name: known_members()
-- Customer and product are known ones; only a country may be absent.
select
    event_id,
    customer_id,
    product_id_pk
from loaded
where customer_id = -1 or product_id_pk = -1;

-- name: until_the_run_date(run_date)
-- No event is of a day after the run date, or before 2000.
select
    event_id,
    happened_at
from loaded
where date_id not between 20000101 and to_char(:run_date, 'YYYYMMDD')::integer;
