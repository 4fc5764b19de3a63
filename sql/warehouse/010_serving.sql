-- One view of everything, for API, dashboards and people: the facts up to where their jobs have loaded, and beside them
-- the events of the realtime database that they have not loaded yet. Each event counts once, at any moment, in one
-- statement: its snapshot of the warehouse fixes the watermark before the first row of the realtime database is read.
do $$
begin
    if not exists (select from pg_roles where rolname = 'globalmart_reader') then
        create role globalmart_reader nologin;
    end if;
end
$$;

create extension postgres_fdw;

-- where it really is, and as whom to log in, follows from the settings: lib/migrate.py sets that
create server realtime foreign data wrapper postgres_fdw options (
    host 'localhost', port '5433', dbname 'realtime',
    connect_timeout '3', fetch_size '10000', application_name 'globalmart serving'
);

-- tables of the realtime database, for the views below
create schema realtime;

create foreign table realtime.order_lines (
    transaction_id varchar(100) not null,
    line integer not null,
    user_id varchar(100) not null,
    country varchar(100),
    transaction_timestamp timestamptz not null,
    product_id varchar(100) not null,
    quantity integer not null,
    unit_price numeric(18, 4) not null,
    total_amount numeric(18, 2) not null,
    ingest_batch_id bigint not null
) server realtime options (schema_name 'serving', table_name 'order_lines');

create foreign table realtime.product_views (
    event_id varchar(100) not null,
    event_type varchar(50) not null,
    user_id varchar(100) not null,
    product_id varchar(100) not null,
    session_id varchar(100),
    country varchar(100),
    event_timestamp timestamptz not null,
    view_duration integer,
    ingest_batch_id bigint not null
) server realtime options (schema_name 'serving', table_name 'product_views');

create foreign table realtime.cart_events (
    event_id varchar(100) not null,
    event_type varchar(50) not null,
    user_id varchar(100) not null,
    product_id varchar(100) not null,
    session_id varchar(100),
    country varchar(100),
    event_timestamp timestamptz not null,
    quantity integer,
    total_amount numeric(38, 2),
    ingest_batch_id bigint not null
) server realtime options (schema_name 'serving', table_name 'cart_events');

create foreign table realtime.ingestion (
    source_table text not null,
    last_batch bigint not null,
    heartbeat_at timestamptz,
    committed_at timestamptz,
    last_event_at timestamptz,
    ever_held bigint not null,
    held bigint not null,
    dead_letters bigint not null
) server realtime options (schema_name 'serving', table_name 'ingestion');

-- The version of a day is the last one that begins up to it, since versions have no gaps. As a comparison of rows that
-- is one step down the index on key and effective_date; an equality would take the index of the exclusion constraint,
-- which is ten times slower.
create schema serving;

comment on schema serving is
'What is served: views that count each event once, loaded or not. Days and times are UTC; money is in the '
'shop''s currency.';

-- up to which batch of its realtime table each job has loaded
create view serving.loaded as
select
    mark.job,
    mark.cut_id,
    cut.run_date,
    mark.updated_at as loaded_at,
    cut.transactions,
    cut.product_view_events,
    cut.cart_events
from ops.watermarks as mark
inner join ops.cuts as cut using (cut_id);

comment on view serving.loaded is 'How far each job of the warehouse has loaded. One row per job.';
comment on column serving.loaded.job is 'The notebook, as schedule.py lists it.';
comment on column serving.loaded.cut_id is 'The cut up to which it has loaded (ops.cuts).';
comment on column serving.loaded.run_date is 'The day of that cut; earlier days are settled.';
comment on column serving.loaded.loaded_at is 'When the load was committed.';
comment on column serving.loaded.transactions is 'The last batch of transactions that it covers.';
comment on column serving.loaded.product_view_events is 'The last batch of product_view_events that it covers.';
comment on column serving.loaded.cart_events is 'The last batch of cart_events that it covers.';

create view serving.sales as
select
    fact.event_id,
    fact.transaction_id,
    fact.transaction_timestamp as sold_at,
    calendar.date as day,
    customer.user_id,
    customer.customer_segment,
    product.product_id,
    product.category,
    coalesce(nullif(place.country, ''), 'Unknown') as country,
    fact.quantity,
    fact.unit_price,
    fact.total_amount as revenue,
    fact.ingest_batch_id,
    false as is_live
from fact_sales as fact
inner join dim_date as calendar using (date_id)
inner join dim_customers as customer using (customer_id)
inner join dim_products as product using (product_id_pk)
inner join dim_geography as place using (geography_id)
union all
select
    live.transaction_id || ':' || live.line as event_id,
    live.transaction_id,
    live.transaction_timestamp as sold_at,
    (live.transaction_timestamp at time zone 'UTC')::date as day,
    live.user_id,
    coalesce(customer.customer_segment, 'Unknown') as customer_segment,
    live.product_id,
    coalesce(product.category, 'Unknown') as category,
    coalesce(nullif(live.country, ''), 'Unknown') as country,
    live.quantity,
    live.unit_price,
    live.total_amount as revenue,
    live.ingest_batch_id,
    true as is_live
from realtime.order_lines as live
left join lateral (
    select
        version.user_id,
        version.customer_segment
    from dim_customers as version
    where
        (version.user_id, version.effective_date)
        <= (live.user_id, (live.transaction_timestamp at time zone 'UTC')::date)
    order by version.user_id desc, version.effective_date desc
    limit 1
) as customer on live.user_id = customer.user_id
left join lateral (
    select
        version.product_id,
        version.category
    from dim_products as version
    where
        (version.product_id, version.effective_date)
        <= (live.product_id, (live.transaction_timestamp at time zone 'UTC')::date)
    order by version.product_id desc, version.effective_date desc
    limit 1
) as product on live.product_id = product.product_id
where live.ingest_batch_id > (
    select coalesce(max(loaded.transactions), 0) from serving.loaded as loaded
    where loaded.job = 'etl/fact_sales'
);

comment on view serving.sales is
'Everything that was sold, to the last event that is stored. One row per order line, each once, loaded into '
'the facts or not.';
comment on column serving.sales.event_id is 'The order''s id and the number of the line, as order:1.';
comment on column serving.sales.transaction_id is
'The order. Count it distinct: an order has a row for each of its lines.';
comment on column serving.sales.sold_at is 'When it was sold, by the event.';
comment on column serving.sales.day is 'The UTC day of sold_at.';
comment on column serving.sales.user_id is 'The customer.';
comment on column serving.sales.customer_segment is
'The customer''s segment on that day; Unknown where the customer has no version that covers it yet.';
comment on column serving.sales.product_id is 'The product.';
comment on column serving.sales.category is
'The product''s category on that day; Unknown where the product has no version that covers it yet.';
comment on column serving.sales.country is 'Where it was sold; Unknown where the order doesn''t say.';
comment on column serving.sales.quantity is 'How many.';
comment on column serving.sales.unit_price is 'The price of one.';
comment on column serving.sales.revenue is 'quantity × unit_price, rounded to the cent. Add it up freely.';
comment on column serving.sales.ingest_batch_id is 'The batch of the realtime database that it came in.';
comment on column serving.sales.is_live is
'Whether it is read from the realtime database, since no load has read it yet.';

create view serving.product_views as
select
    fact.event_id,
    fact.event_type,
    fact.event_timestamp as viewed_at,
    calendar.date as day,
    customer.user_id,
    customer.customer_segment,
    product.product_id,
    product.category,
    coalesce(nullif(place.country, ''), 'Unknown') as country,
    fact.session_id,
    fact.view_duration as seconds,
    fact.ingest_batch_id,
    false as is_live
from fact_product_views as fact
inner join dim_date as calendar using (date_id)
inner join dim_customers as customer using (customer_id)
inner join dim_products as product using (product_id_pk)
inner join dim_geography as place using (geography_id)
union all
select
    live.event_id,
    live.event_type,
    live.event_timestamp as viewed_at,
    (live.event_timestamp at time zone 'UTC')::date as day,
    live.user_id,
    coalesce(customer.customer_segment, 'Unknown') as customer_segment,
    live.product_id,
    coalesce(product.category, 'Unknown') as category,
    coalesce(nullif(live.country, ''), 'Unknown') as country,
    live.session_id,
    live.view_duration as seconds,
    live.ingest_batch_id,
    true as is_live
from realtime.product_views as live
left join lateral (
    select
        version.user_id,
        version.customer_segment
    from dim_customers as version
    where
        (version.user_id, version.effective_date)
        <= (live.user_id, (live.event_timestamp at time zone 'UTC')::date)
    order by version.user_id desc, version.effective_date desc
    limit 1
) as customer on live.user_id = customer.user_id
left join lateral (
    select
        version.product_id,
        version.category
    from dim_products as version
    where
        (version.product_id, version.effective_date)
        <= (live.product_id, (live.event_timestamp at time zone 'UTC')::date)
    order by version.product_id desc, version.effective_date desc
    limit 1
) as product on live.product_id = product.product_id
where live.ingest_batch_id > (
    select coalesce(max(loaded.product_view_events), 0)
    from serving.loaded as loaded
    where loaded.job = 'etl/fact_product_views'
);

comment on view serving.product_views is
'Everything that was looked at, to the last event that is stored. One row per view, each once, loaded into the '
'facts or not.';
comment on column serving.product_views.event_id is 'The view.';
comment on column serving.product_views.event_type is 'view.';
comment on column serving.product_views.viewed_at is 'When it was looked at, by the event.';
comment on column serving.product_views.day is 'The UTC day of viewed_at.';
comment on column serving.product_views.user_id is 'The customer, who need not have bought anything.';
comment on column serving.product_views.customer_segment is
'The customer''s segment on that day; Unknown where the customer has no version that covers it yet.';
comment on column serving.product_views.product_id is 'The product.';
comment on column serving.product_views.category is
'The product''s category on that day; Unknown where the product has no version that covers it yet.';
comment on column serving.product_views.country is 'Where it was looked at; Unknown where the event doesn''t say.';
comment on column serving.product_views.session_id is 'The visit that it belongs to, if the event says.';
comment on column serving.product_views.seconds is 'For how long, if the event says.';
comment on column serving.product_views.ingest_batch_id is 'The batch of the realtime database that it came in.';
comment on column serving.product_views.is_live is
'Whether it is read from the realtime database, since no load has read it yet.';

create view serving.cart_events as
select
    fact.event_id,
    fact.event_type,
    fact.event_timestamp as happened_at,
    calendar.date as day,
    customer.user_id,
    customer.customer_segment,
    product.product_id,
    product.category,
    coalesce(nullif(place.country, ''), 'Unknown') as country,
    fact.session_id,
    fact.quantity,
    fact.total_amount as amount,
    fact.ingest_batch_id,
    false as is_live
from fact_cart_events as fact
inner join dim_date as calendar using (date_id)
inner join dim_customers as customer using (customer_id)
inner join dim_products as product using (product_id_pk)
inner join dim_geography as place using (geography_id)
union all
select
    live.event_id,
    live.event_type,
    live.event_timestamp as happened_at,
    (live.event_timestamp at time zone 'UTC')::date as day,
    live.user_id,
    coalesce(customer.customer_segment, 'Unknown') as customer_segment,
    live.product_id,
    coalesce(product.category, 'Unknown') as category,
    coalesce(nullif(live.country, ''), 'Unknown') as country,
    live.session_id,
    live.quantity,
    live.total_amount as amount,
    live.ingest_batch_id,
    true as is_live
from realtime.cart_events as live
left join lateral (
    select
        version.user_id,
        version.customer_segment
    from dim_customers as version
    where
        (version.user_id, version.effective_date)
        <= (live.user_id, (live.event_timestamp at time zone 'UTC')::date)
    order by version.user_id desc, version.effective_date desc
    limit 1
) as customer on live.user_id = customer.user_id
left join lateral (
    select
        version.product_id,
        version.category
    from dim_products as version
    where
        (version.product_id, version.effective_date)
        <= (live.product_id, (live.event_timestamp at time zone 'UTC')::date)
    order by version.product_id desc, version.effective_date desc
    limit 1
) as product on live.product_id = product.product_id
where live.ingest_batch_id > (
    select coalesce(max(loaded.cart_events), 0)
    from serving.loaded as loaded
    where loaded.job = 'etl/fact_cart_events'
);

comment on view serving.cart_events is
'Every change of a cart, to the last event that is stored. One row per event, each once, loaded into the facts or not.';
comment on column serving.cart_events.event_id is 'The event.';
comment on column serving.cart_events.event_type is 'add, remove, update or checkout.';
comment on column serving.cart_events.happened_at is 'When it happened, by the event.';
comment on column serving.cart_events.day is 'The UTC day of happened_at.';
comment on column serving.cart_events.user_id is 'The customer.';
comment on column serving.cart_events.customer_segment is
'The customer''s segment on that day; Unknown where the customer has no version that covers it yet.';
comment on column serving.cart_events.product_id is 'The product.';
comment on column serving.cart_events.category is
'The product''s category on that day; Unknown where the product has no version that covers it yet.';
comment on column serving.cart_events.country is 'Where it happened; Unknown where the event doesn''t say.';
comment on column serving.cart_events.session_id is 'The visit that it belongs to, if the event says.';
comment on column serving.cart_events.quantity is 'How many, if the event says.';
comment on column serving.cart_events.amount is 'quantity × price, rounded to the cent; empty where one of them is.';
comment on column serving.cart_events.ingest_batch_id is 'The batch of the realtime database that it came in.';
comment on column serving.cart_events.is_live is
'Whether it is read from the realtime database, since no load has read it yet.';
