-- Rules of customer_segments.

-- name: every_customer()
-- Every current customer is in one segment, and their revenue is that of the dimension, to the cent.
with ours as (
    select
        sum(customer_count) as customers,
        sum(total_revenue) as revenue
    from customer_segments
),

people as (
    select
        count(*) as customers,
        coalesce(sum(total_spent), 0) as revenue
    from dim_customers
    where is_current and user_id <> ''
)

select
    ours.customers,
    people.customers as customers_of_dimension,
    ours.revenue,
    people.revenue as revenue_of_dimension
from ours
cross join people
where (ours.customers, ours.revenue) is distinct from (people.customers, people.revenue);

-- name: four_segments()
-- There is a row for each of the four segments, and no other.
select segment_name
from customer_segments
full join (values ('High Value'), ('Medium Value'), ('Low Value'), ('New')) as named (segment_name) using (segment_name)
where customer_segments.segment_name is null or named.segment_name is null;
