-- Rules of rfm_analysis, over the snapshot of the run date.

-- name: new_buyers(run_date, open_day, transactions_after, transactions_upto)
-- Whoever bought since the last load is there, with the orders, the money and the last day of the fact, to the cent.
with new_users as (
    select distinct c.user_id
    from fact_sales as s
    inner join dim_customers as c using (customer_id)
    where
        s.ingest_batch_id <= :transactions_upto
        and (s.ingest_batch_id > :transactions_after or s.date_id >= to_char(:open_day, 'YYYYMMDD')::integer)
        and s.date_id < to_char(:run_date, 'YYYYMMDD')::integer
),

facts as (
    select
        c.user_id,
        count(distinct s.transaction_id) as orders,
        sum(s.total_amount) as money,
        :run_date - max(d.date) as days
    from new_users
    inner join dim_customers as c using (user_id)
    inner join fact_sales as s using (customer_id)
    inner join dim_date as d using (date_id)
    where s.ingest_batch_id <= :transactions_upto and d.date < :run_date
    group by c.user_id
),

ours as (
    select * from rfm_analysis
    where analysis_date = :run_date
)

select
    user_id,
    facts.orders as fact_orders,
    ours.frequency_count as orders,
    facts.money as fact_money,
    ours.monetary_value as money,
    facts.days as fact_days,
    ours.recency_days as days
from facts
left join ours using (user_id)
where
    (facts.orders, facts.money, facts.days)
    is distinct from (ours.frequency_count, ours.monetary_value, ours.recency_days);

-- name: nobody_lost(run_date, open_day)
-- Whoever is in the snapshot of the last load is in this one.
select user_id
from rfm_analysis
where analysis_date = :open_day
except
select user_id
from rfm_analysis
where analysis_date = :run_date;

-- name: equal_values_equal_scores(run_date)
-- Customers with the same recency, frequency or money have the same score for it.
with snapshot as (
    select * from rfm_analysis
    where analysis_date = :run_date
),

scores as (
    select
        'recency' as measure,
        recency_days as value,
        recency_score as score
    from snapshot
    union all
    select
        'frequency' as measure,
        frequency_count as value,
        frequency_score as score
    from snapshot
    union all
    select
        'money' as measure,
        monetary_value as value,
        monetary_score as score
    from snapshot
)

select
    measure,
    value,
    count(distinct score) as different_scores
from scores
group by measure, value
having count(distinct score) > 1;
