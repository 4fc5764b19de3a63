-- Sums that are served. What an analysis has summed already is taken from it; added are the facts that it has not read,
-- and the events that no load has read. An order with all its lines is in one batch and on one day, so that numbers of
-- orders of different batches can be added.

create view serving.product_days as
with summed as (
    select
        coalesce(max(loaded.transactions), 0) as sales,
        coalesce(max(loaded.product_view_events), 0) as views
    from serving.loaded as loaded
    where loaded.job = 'analytics/product_performance'
),

parts as (
    select
        kept.product_id,
        kept.analysis_date as day,
        kept.total_sales as orders,
        kept.total_quantity as quantity,
        kept.total_revenue as revenue,
        kept.total_views as views
    from product_performance as kept
    union all
    select
        product.product_id,
        calendar.date as day,
        count(distinct fact.transaction_id) as orders,
        sum(fact.quantity) as quantity,
        sum(fact.total_amount) as revenue,
        0 as views
    from fact_sales as fact
    inner join dim_date as calendar using (date_id)
    inner join dim_products as product using (product_id_pk)
    where fact.ingest_batch_id > (select summed.sales from summed)
    group by product.product_id, calendar.date
    union all
    select
        product.product_id,
        calendar.date as day,
        0 as orders,
        0 as quantity,
        0 as revenue,
        count(*) as views
    from fact_product_views as fact
    inner join dim_date as calendar using (date_id)
    inner join dim_products as product using (product_id_pk)
    where fact.ingest_batch_id > (select summed.views from summed)
    group by product.product_id, calendar.date
    union all
    select
        live.product_id,
        (live.transaction_timestamp at time zone 'UTC')::date as day,
        count(distinct live.transaction_id) as orders,
        sum(live.quantity) as quantity,
        sum(live.total_amount) as revenue,
        0 as views
    from realtime.order_lines as live
    where
        live.ingest_batch_id > (
            select coalesce(max(loaded.transactions), 0)
            from serving.loaded as loaded
            where loaded.job = 'etl/fact_sales'
        )
    group by live.product_id, (live.transaction_timestamp at time zone 'UTC')::date
    union all
    select
        live.product_id,
        (live.event_timestamp at time zone 'UTC')::date as day,
        0 as orders,
        0 as quantity,
        0 as revenue,
        count(*) as views
    from realtime.product_views as live
    where
        live.ingest_batch_id > (
            select coalesce(max(loaded.product_view_events), 0)
            from serving.loaded as loaded
            where loaded.job = 'etl/fact_product_views'
        )
    group by live.product_id, (live.event_timestamp at time zone 'UTC')::date
),

sums as (
    select
        parts.product_id,
        parts.day,
        sum(parts.orders)::bigint as orders,
        sum(parts.quantity)::numeric(38) as quantity,
        sum(parts.revenue)::numeric(38, 2) as revenue,
        sum(parts.views)::bigint as views
    from parts
    group by parts.product_id, parts.day
)

select
    sums.product_id,
    coalesce(product.category, 'Unknown') as category,
    sums.day,
    sums.orders,
    sums.quantity,
    sums.revenue,
    sums.views
from sums
left join dim_products as product
    on
        sums.product_id = product.product_id
        and sums.day >= product.effective_date
        and sums.day < coalesce(product.end_date, 'infinity');

comment on view serving.product_days is
'What each product sold and how often it was looked at, to the last event. One row per product and day with a '
'sale or a view.';
comment on column serving.product_days.product_id is 'The product.';
comment on column serving.product_days.category is
'Its category on that day; Unknown where the product has no version that covers it yet.';
comment on column serving.product_days.day is 'The UTC day of the sales and views.';
comment on column serving.product_days.orders is 'Orders with the product in them.';
comment on column serving.product_days.quantity is 'Pieces sold.';
comment on column serving.product_days.revenue is 'Revenue, exact to the cent.';
comment on column serving.product_days.views is
'Times that it was looked at. Conversion is orders ÷ views over the same days.';

create view serving.sales_days as
with summed as (
    select coalesce(max(loaded.transactions), 0) as sales
    from serving.loaded as loaded
    where loaded.job = 'analytics/sales_trends'
),

loaded_lines as (
    select
        calendar.date as day,
        product.category,
        fact.transaction_id,
        fact.quantity,
        fact.total_amount
    from fact_sales as fact
    inner join dim_date as calendar using (date_id)
    inner join dim_products as product using (product_id_pk)
    where fact.ingest_batch_id > (select summed.sales from summed)
),

live_lines as (
    select
        lines.day,
        coalesce(product.category, 'Unknown') as category,
        lines.transaction_id,
        lines.quantity,
        lines.total_amount
    from (
        select
            (live.transaction_timestamp at time zone 'UTC')::date as day,
            live.product_id,
            live.transaction_id,
            live.quantity,
            live.total_amount
        from realtime.order_lines as live
        where live.ingest_batch_id > (
            select coalesce(max(loaded.transactions), 0)
            from serving.loaded as loaded
            where loaded.job = 'etl/fact_sales'
        )
    ) as lines
    left join lateral (
        select
            version.product_id,
            version.category
        from dim_products as version
        where (version.product_id, version.effective_date) <= (lines.product_id, lines.day)
        order by version.product_id desc, version.effective_date desc
        limit 1
    ) as product on lines.product_id = product.product_id
),

added as (
    select * from loaded_lines
    union all
    select * from live_lines
),

parts as (
    select
        kept.date as day,
        kept.category,
        kept.orders,
        kept.quantity,
        kept.revenue
    from ops.sales_days as kept
    union all
    select
        added.day,
        coalesce(added.category, 'All') as category,
        count(distinct added.transaction_id) as orders,
        sum(added.quantity) as quantity,
        sum(added.total_amount) as revenue
    from added
    group by grouping sets ((added.day, added.category), (added.day))
)

select
    parts.day,
    parts.category,
    sum(parts.orders)::bigint as orders,
    sum(parts.quantity)::numeric(38) as quantity,
    sum(parts.revenue)::numeric(38, 2) as revenue
from parts
group by parts.day, parts.category;

comment on view serving.sales_days is
'Sales by day and category, and in total as category All, to the last event. One row per day and category with a sale.';
comment on column serving.sales_days.day is 'The UTC day of the sales.';
comment on column serving.sales_days.category is
'The products'' category on that day; All for the total. Never add All to the others.';
comment on column serving.sales_days.orders is
'Orders, each once per category: those of the categories add up to more than All.';
comment on column serving.sales_days.quantity is 'Pieces sold.';
comment on column serving.sales_days.revenue is 'Revenue, exact to the cent.';

create view serving.sales_today as
select
    days.category,
    days.orders,
    days.quantity,
    days.revenue
from serving.sales_days as days
where days.day = (select (now() at time zone 'UTC')::date);

comment on view serving.sales_today is
'Sales of the current UTC day so far. One row per category with a sale, and All for the total.';
comment on column serving.sales_today.category is 'The category; All for the total.';
comment on column serving.sales_today.orders is 'Orders, each once per category.';
comment on column serving.sales_today.quantity is 'Pieces sold.';
comment on column serving.sales_today.revenue is 'Revenue, exact to the cent.';

-- of the two conditions on the time, the realtime database gets the first; the second makes the facts' index worth it
create view serving.last_hour as
with first as (
    select date_trunc('minute', now()) - interval '59 minutes' as minute
),

minutes as (
    select generate_series(first.minute, first.minute + interval '59 minutes', interval '1 minute') as minute from first
),

loaded as (
    select
        coalesce(max(mark.transactions) filter (where mark.job = 'etl/fact_sales'), 0) as sales,
        coalesce(max(mark.product_view_events) filter (where mark.job = 'etl/fact_product_views'), 0) as views,
        coalesce(max(mark.cart_events) filter (where mark.job = 'etl/fact_cart_events'), 0) as cart_events
    from serving.loaded as mark
),

sold as (
    select
        date_trunc('minute', sale.at) as minute,
        count(distinct sale.transaction_id) as orders,
        sum(sale.revenue) as revenue
    from (
        select
            fact.transaction_timestamp as at,
            fact.transaction_id,
            fact.total_amount as revenue
        from fact_sales as fact
        union all
        select
            live.transaction_timestamp as at,
            live.transaction_id,
            live.total_amount as revenue
        from realtime.order_lines as live
        where live.ingest_batch_id > (select loaded.sales from loaded)
    ) as sale
    where sale.at >= (select first.minute from first) and sale.at >= now() - interval '1 hour'
    group by date_trunc('minute', sale.at)
),

viewed as (
    select
        date_trunc('minute', viewing.at) as minute,
        count(*) as views
    from (
        select fact.event_timestamp as at
        from fact_product_views as fact
        union all
        select live.event_timestamp as at
        from realtime.product_views as live
        where live.ingest_batch_id > (select loaded.views from loaded)
    ) as viewing
    where viewing.at >= (select first.minute from first) and viewing.at >= now() - interval '1 hour'
    group by date_trunc('minute', viewing.at)
),

carted as (
    select
        date_trunc('minute', change.at) as minute,
        count(*) as cart_events
    from (
        select fact.event_timestamp as at
        from fact_cart_events as fact
        union all
        select live.event_timestamp as at
        from realtime.cart_events as live
        where live.ingest_batch_id > (select loaded.cart_events from loaded)
    ) as change
    where change.at >= (select first.minute from first) and change.at >= now() - interval '1 hour'
    group by date_trunc('minute', change.at)
)

select
    minutes.minute,
    coalesce(sold.orders, 0) as orders,
    coalesce(sold.revenue, 0)::numeric(38, 2) as revenue,
    coalesce(viewed.views, 0) as views,
    coalesce(carted.cart_events, 0) as cart_events
from minutes
left join sold on minutes.minute = sold.minute
left join viewed on minutes.minute = viewed.minute
left join carted on minutes.minute = carted.minute;

comment on view serving.last_hour is
'The last hour by minute, the running one included. 60 rows, zeros where nothing happened.';
comment on column serving.last_hour.minute is 'The minute''s first instant.';
comment on column serving.last_hour.orders is 'Orders.';
comment on column serving.last_hour.revenue is 'Revenue, exact to the cent.';
comment on column serving.last_hour.views is 'Products looked at.';
comment on column serving.last_hour.cart_events is 'Changes of carts.';

create view serving.freshness as
with fact as (
    select
        loaded.job,
        loaded.run_date,
        loaded.loaded_at,
        case loaded.job
            when 'etl/fact_sales' then 'transactions'
            when 'etl/fact_product_views' then 'product_view_events'
            else 'cart_events'
        end as source_table,
        case loaded.job
            when 'etl/fact_sales' then loaded.transactions
            when 'etl/fact_product_views' then loaded.product_view_events
            else loaded.cart_events
        end as batch
    from serving.loaded as loaded
    where loaded.job in ('etl/fact_sales', 'etl/fact_product_views', 'etl/fact_cart_events')
)

select
    head.source_table,
    fact.job as fact_job,
    head.last_batch,
    coalesce(fact.batch, 0) as loaded_batch,
    head.last_batch - coalesce(fact.batch, 0) as batches_behind,
    fact.run_date,
    fact.loaded_at,
    head.committed_at as stored_at,
    head.last_event_at,
    head.heartbeat_at,
    head.held,
    head.dead_letters
from realtime.ingestion as head
left join fact using (source_table);

comment on view serving.freshness is 'How far ingestion and the facts are. One row per realtime table.';
comment on column serving.freshness.source_table is 'The realtime table.';
comment on column serving.freshness.fact_job is 'The job that loads its fact; empty before the first load.';
comment on column serving.freshness.last_batch is 'The last batch that is stored.';
comment on column serving.freshness.loaded_batch is 'The last batch that is in the fact.';
comment on column serving.freshness.batches_behind is 'Batches that are served from the realtime database.';
comment on column serving.freshness.run_date is 'The day up to which the fact is settled, exclusive.';
comment on column serving.freshness.loaded_at is 'When the fact was last loaded.';
comment on column serving.freshness.stored_at is 'When the last batch was stored.';
comment on column serving.freshness.last_event_at is 'The time of the last event in that batch.';
comment on column serving.freshness.heartbeat_at is 'When the saver last said that it is there.';
comment on column serving.freshness.held is 'Events that somebody has put aside; no number contains them.';
comment on column serving.freshness.dead_letters is 'Messages that couldn''t be stored and haven''t been sent again.';

-- What an answer depends on: it may differ only when this does.
create view serving.loaded_version as
select md5(string_agg(mark.job || ' ' || mark.cut_id || ' ' || mark.loaded_at, ', ' order by mark.job)) as version
from serving.loaded as mark;

comment on view serving.loaded_version is 'One text that changes with every load. One row.';
comment on column serving.loaded_version.version is 'Compare it; it means nothing else. Empty before the first load.';

create view serving.live_version as
select md5(string_agg(part.said, ', ' order by part.said)) as version
from (
    select mark.version as said
    from serving.loaded_version as mark
    where mark.version is not null
    union all
    select head.source_table || ' ' || head.last_batch || ' ' || head.ever_held || ' ' || head.held as said
    from realtime.ingestion as head
) as part;

comment on view serving.live_version is
'One text that changes with every load, every batch that is stored, every event that is held or released. One row.';
comment on column serving.live_version.version is 'Compare it; it means nothing else.';

grant usage on schema serving to globalmart_reader, globalmart_etl;
grant select on all tables in schema serving to globalmart_reader, globalmart_etl;
