-- Rules of sales_trends, and of ops.sales_days, which it is made of.

-- name: days_of_the_fact(transactions_after, transactions_upto)
-- On every day with new order lines, what is kept of the day is what fact_sales has, to the cent.
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
)

select
    facts.date,
    facts.quantity as fact_quantity,
    k.quantity,
    facts.revenue as fact_revenue,
    k.revenue
from facts
left join ops.sales_days as k on facts.date = k.date and k.category = 'All'
where (facts.quantity, facts.revenue) is distinct from (k.quantity, k.revenue);

-- name: totals_of_the_days()
-- For each kind of period the totals add up to the revenue of all days, to the cent.
with ours as (
    select
        period_type,
        sum(total_revenue) as revenue
    from sales_trends
    where category = 'All'
    group by period_type
),

days as (
    select sum(revenue) as revenue
    from ops.sales_days
    where category = 'All'
)

select
    period_type,
    ours.revenue,
    days.revenue as revenue_of_days
from (values ('weekly'), ('monthly'), ('quarterly')) as kinds (period_type)
cross join days
left join ours using (period_type)
where ours.revenue is distinct from days.revenue;

-- name: categories_add_up()
-- In each period the revenue of the categories adds up to that of `All`.
select
    period_type,
    period_value,
    sum(total_revenue) filter (where category = 'All') as revenue,
    sum(total_revenue) filter (where category <> 'All') as revenue_of_categories
from sales_trends
group by period_type, period_value
having
    sum(total_revenue) filter (where category = 'All')
    is distinct from sum(total_revenue) filter (where category <> 'All');

-- name: one_running_period()
-- Of each kind at most one period is running.
select
    period_type,
    count(distinct period_value) as running
from sales_trends
where is_running
group by period_type
having count(distinct period_value) > 1;
