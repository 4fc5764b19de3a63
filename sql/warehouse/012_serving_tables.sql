-- What the jobs have made, as it is: one schema for all readers, and no right on the tables themselves.

create view serving.customers as
select
    customer.user_id,
    customer.customer_segment,
    customer.first_transaction_date,
    customer.last_transaction_date,
    customer.total_transactions,
    customer.total_spent,
    customer.avg_order_value,
    customer.effective_date as segment_since
from dim_customers as customer
where customer.is_current and customer.customer_id <> -1;

comment on view serving.customers is 'Customers as the last load left them. One row per customer.';
comment on column serving.customers.user_id is 'The customer.';
comment on column serving.customers.customer_segment is 'New, Low Value, Medium Value or High Value.';
comment on column serving.customers.first_transaction_date is 'The day of the first order, if there is one.';
comment on column serving.customers.last_transaction_date is 'The day of the last order, if there is one.';
comment on column serving.customers.total_transactions is 'Orders, in all.';
comment on column serving.customers.total_spent is 'Money spent, in all.';
comment on column serving.customers.avg_order_value is 'total_spent ÷ total_transactions.';
comment on column serving.customers.segment_since is 'The first day of this segment.';

create view serving.customer_history as
select
    customer.user_id,
    customer.customer_segment,
    customer.effective_date,
    customer.end_date,
    customer.is_current,
    customer.total_transactions,
    customer.total_spent
from dim_customers as customer
where customer.customer_id <> -1;

comment on view serving.customer_history is
'The segments that each customer has been in. One row per customer and version.';
comment on column serving.customer_history.user_id is 'The customer.';
comment on column serving.customer_history.customer_segment is 'The segment.';
comment on column serving.customer_history.effective_date is 'Its first day.';
comment on column serving.customer_history.end_date is 'The day after its last one; empty for the current one.';
comment on column serving.customer_history.is_current is 'Whether it is the current one.';
comment on column serving.customer_history.total_transactions is 'Orders at its end.';
comment on column serving.customer_history.total_spent is 'Money spent at its end.';

create view serving.customer_segments as
select
    segment.segment_name,
    segment.customer_count,
    segment.total_revenue,
    segment.avg_order_value,
    segment.analysis_date
from customer_segments as segment;

comment on view serving.customer_segments is 'Customers by segment, as the last cycle left them. Four rows.';
comment on column serving.customer_segments.segment_name is 'New, Low Value, Medium Value or High Value.';
comment on column serving.customer_segments.customer_count is 'Customers in it.';
comment on column serving.customer_segments.total_revenue is 'What they have spent, in all.';
comment on column serving.customer_segments.avg_order_value is 'total_revenue ÷ their orders.';
comment on column serving.customer_segments.analysis_date is 'The day of the cut.';

create view serving.rfm as
select
    score.user_id,
    score.analysis_date,
    score.recency_days,
    score.frequency_count,
    score.monetary_value,
    score.recency_score,
    score.frequency_score,
    score.monetary_score,
    score.rfm_segment
from rfm_analysis as score;

comment on view serving.rfm is 'Recency, frequency and money. One row per customer with a sale, and snapshot.';
comment on column serving.rfm.user_id is 'The customer.';
comment on column serving.rfm.analysis_date is 'The day of the snapshot: it covers the days before.';
comment on column serving.rfm.recency_days is 'Days since the last order.';
comment on column serving.rfm.frequency_count is 'Orders.';
comment on column serving.rfm.monetary_value is 'Money spent.';
comment on column serving.rfm.recency_score is '1 (longest ago) to 5.';
comment on column serving.rfm.frequency_score is '1 (fewest) to 5.';
comment on column serving.rfm.monetary_score is '1 (least) to 5.';
comment on column serving.rfm.rfm_segment is 'Champions, Loyal, At Risk … (docs/data-model.md).';

create view serving.sales_trends as
select
    trend.period_type,
    trend.period_value,
    trend.category,
    trend.total_sales,
    trend.total_revenue,
    trend.avg_order_value,
    trend.total_quantity,
    trend.growth_rate,
    trend.is_running,
    trend.analysis_date
from sales_trends as trend;

comment on view serving.sales_trends is
'Sales by week, month and quarter, as the last cycle left them. One row per period and category, and All for '
'the total.';
comment on column serving.sales_trends.period_type is 'weekly, monthly or quarterly.';
comment on column serving.sales_trends.period_value is '2026-W47, 2026-11 or 2026-Q4.';
comment on column serving.sales_trends.category is 'The category; All for the total.';
comment on column serving.sales_trends.total_sales is 'Orders, each once per category.';
comment on column serving.sales_trends.total_revenue is 'Revenue, exact to the cent.';
comment on column serving.sales_trends.avg_order_value is 'total_revenue ÷ total_sales.';
comment on column serving.sales_trends.total_quantity is 'Pieces sold.';
comment on column serving.sales_trends.growth_rate is
'Change of revenue against the period before, a fraction; of a running period, its completed days against as many.';
comment on column serving.sales_trends.is_running is 'Whether the period isn''t over.';
comment on column serving.sales_trends.analysis_date is 'The end of the period, or the day of the cut.';

create view serving.runs as
select
    run.run_id,
    run.cycle_id,
    run.job,
    run.run_date,
    run.status,
    run.attempt,
    run.started_at,
    run.finished_at,
    extract(epoch from run.finished_at - run.started_at)::double precision as seconds,
    run.error,
    run.report
from ops.job_runs as run;

comment on view serving.runs is 'What has run. One row per attempt of a job.';
comment on column serving.runs.run_id is 'The run.';
comment on column serving.runs.cycle_id is 'The cycle that it belongs to, if it belongs to one.';
comment on column serving.runs.job is 'The notebook.';
comment on column serving.runs.run_date is 'The day that it ran for.';
comment on column serving.runs.status is 'running, done, failed, skipped or killed.';
comment on column serving.runs.attempt is '1 for the first one.';
comment on column serving.runs.started_at is 'When it began.';
comment on column serving.runs.finished_at is 'When it ended; empty while it runs.';
comment on column serving.runs.seconds is 'How long it took.';
comment on column serving.runs.error is 'Why it isn''t done, in a line.';
comment on column serving.runs.report is 'Its report, as a path below the folder of runs.';

create view serving.quality as
select
    result.run_id,
    result.job,
    result.rule,
    result.severity,
    result.failed_rows,
    result.checked_at
from ops.data_quality as result;

comment on view serving.quality is 'What the rules of data quality found. One row per run and rule.';
comment on column serving.quality.run_id is 'The run.';
comment on column serving.quality.job is 'The notebook.';
comment on column serving.quality.rule is 'The rule, as in sql/*/quality.';
comment on column serving.quality.severity is 'hard: the load was rolled back; soft: it is told only.';
comment on column serving.quality.failed_rows is 'Rows that break the rule.';
comment on column serving.quality.checked_at is 'When it was checked.';

-- what a dashboard opens with; the cycle refreshes it at its end, and as_of says how old it is
create materialized view serving.product_ranking as
with days as (
    select
        kept.product_id,
        kept.category,
        kept.analysis_date as day,
        kept.total_sales as orders,
        kept.total_quantity as quantity,
        kept.total_revenue as revenue,
        kept.total_views as views
    from product_performance as kept
    where
        kept.analysis_date > (select max(last.analysis_date) - 30 from product_performance as last)
        and kept.product_id <> ''
),

sums as (
    select
        days.product_id,
        (array_agg(days.category order by days.day desc))[1] as category,
        sum(days.orders)::bigint as orders,
        sum(days.quantity)::numeric(38) as quantity,
        sum(days.revenue)::numeric(38, 2) as revenue,
        sum(days.views)::bigint as views,
        min(days.day) as first_day,
        max(days.day) as last_day
    from days
    group by days.product_id
)

select
    sums.product_id,
    sums.category,
    sums.orders,
    sums.quantity,
    sums.revenue,
    sums.views,
    sums.orders / nullif(sums.views, 0)::double precision as conversion_rate,
    sums.first_day,
    sums.last_day,
    rank() over (order by sums.revenue desc) as revenue_rank,
    rank() over (partition by sums.category order by sums.revenue desc) as revenue_rank_in_category,
    (
        select max(loaded.loaded_at) from serving.loaded as loaded
        where loaded.job = 'analytics/product_performance'
    ) as as_of
from sums;

create unique index idx_product_ranking_product on serving.product_ranking (product_id);

comment on materialized view serving.product_ranking is
'Products of the last 30 days with data, ranked, as of the last cycle. One row per product with a sale or a '
'view in them.';
comment on column serving.product_ranking.product_id is 'The product.';
comment on column serving.product_ranking.category is 'Its category on its last day with a sale or a view.';
comment on column serving.product_ranking.orders is 'Orders with the product in them.';
comment on column serving.product_ranking.quantity is 'Pieces sold.';
comment on column serving.product_ranking.revenue is 'Revenue, exact to the cent.';
comment on column serving.product_ranking.views is 'Times that it was looked at.';
comment on column serving.product_ranking.conversion_rate is 'orders ÷ views, a fraction; empty without views.';
comment on column serving.product_ranking.first_day is 'Its first day among the 30 with a sale or a view.';
comment on column serving.product_ranking.last_day is 'Its last one.';
comment on column serving.product_ranking.revenue_rank is '1 for the highest revenue; equal ones share a rank.';
comment on column serving.product_ranking.revenue_rank_in_category is 'The same within its category.';
comment on column serving.product_ranking.as_of is 'When the analysis that it is made of was committed.';

-- readers aren't kept waiting
create function serving.refresh() returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    refresh materialized view concurrently serving.product_ranking;
end
$$;

revoke execute on function serving.refresh from public;
grant execute on function serving.refresh to globalmart_etl;

grant usage on schema serving to globalmart_reader, globalmart_etl;
grant select on all tables in schema serving to globalmart_reader, globalmart_etl;
