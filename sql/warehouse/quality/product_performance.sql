-- Rules of product_performance. `staged` is what this load computed.

-- name: sales_of_the_fact(transactions_after, transactions_upto)
-- On every day with new order lines, quantities and revenue are those of fact_sales, to the cent.
with new_days as (
    select distinct date_id
    from fact_sales
    where ingest_batch_id > :transactions_after and ingest_batch_id <= :transactions_upto
),

facts as (
    select
        d.date,
        sum(s.quantity) as quantity,
        sum(s.total_amount) as revenue
    from new_days
    inner join fact_sales as s using (date_id)
    inner join dim_date as d using (date_id)
    where s.ingest_batch_id <= :transactions_upto
    group by d.date
),

ours as (
    select
        analysis_date as date,
        sum(total_quantity) as quantity,
        sum(total_revenue) as revenue
    from product_performance
    where analysis_date in (select facts.date from facts)
    group by analysis_date
)

select
    date,
    facts.quantity as fact_quantity,
    ours.quantity,
    facts.revenue as fact_revenue,
    ours.revenue
from facts
left join ours using (date)
where (facts.quantity, facts.revenue) is distinct from (ours.quantity, ours.revenue);

-- name: views_of_the_fact(product_view_events_after, product_view_events_upto)
-- On every day with new views, their number is that of fact_product_views.
with new_days as (
    select distinct date_id
    from fact_product_views
    where ingest_batch_id > :product_view_events_after and ingest_batch_id <= :product_view_events_upto
),

facts as (
    select
        d.date,
        count(*) as views
    from new_days
    inner join fact_product_views as v using (date_id)
    inner join dim_date as d using (date_id)
    where v.ingest_batch_id <= :product_view_events_upto
    group by d.date
),

ours as (
    select
        analysis_date as date,
        sum(total_views) as views
    from product_performance
    where analysis_date in (select facts.date from facts)
    group by analysis_date
)

select
    date,
    facts.views as fact_views,
    ours.views
from facts
left join ours using (date)
where facts.views is distinct from ours.views;

-- name: category_of_the_day()
-- The category is that of the product's version valid on the day.
select
    t.product_id,
    t.analysis_date,
    t.category,
    p.category as valid
from product_performance as t
left join dim_products as p
    on
        t.product_id = p.product_id
        and t.analysis_date >= p.effective_date
        and (p.end_date is null or t.analysis_date < p.end_date)
where
    exists (
        select from staged as s
        where s.product_id = t.product_id and s.analysis_date = t.analysis_date
    )
    and t.category is distinct from p.category;

-- name: ratios()
-- Nothing is negative; the conversion rate is orders ÷ views, the price revenue ÷ quantity, NULL where that is 0.
select
    t.product_id,
    t.analysis_date,
    t.total_sales,
    t.total_views,
    t.conversion_rate,
    t.avg_price
from staged
inner join product_performance as t using (product_id, analysis_date)
where
    least(t.total_sales, t.total_views, t.total_quantity, t.total_revenue) < 0
    or (t.conversion_rate is null) <> (t.total_views = 0)
    or (t.avg_price is null) <> (t.total_quantity = 0)
    or abs(t.conversion_rate * t.total_views - t.total_sales) > 1e-9 * greatest(t.total_sales, 1)
    or abs(t.avg_price * t.total_quantity - t.total_revenue::double precision)
    > 1e-9 * greatest(t.total_revenue::double precision, 1);
