-- The star schema for tools that import it, Power BI first: facts and dimensions as they are loaded, one view for each
-- table, so that a reader needs no right on the tables themselves.

create view serving.dim_date as
select
    calendar.date_id,
    calendar.date,
    calendar.year,
    calendar.quarter,
    calendar.month,
    calendar.day,
    calendar.day_of_week,
    calendar.week_of_year,
    calendar.is_weekend,
    to_char(calendar.date, 'FMMonth') as month_name,
    to_char(calendar.date, 'FMDay') as day_name,
    to_char(calendar.date, 'YYYY"-Q"Q') as quarter_label,
    to_char(calendar.date, 'YYYY-MM') as month_label,
    to_char(calendar.date, 'IYYY"-W"IW') as week_label,
    date_trunc('quarter', calendar.date::timestamp)::date as quarter_start,
    date_trunc('month', calendar.date::timestamp)::date as month_start,
    date_trunc('week', calendar.date::timestamp)::date as week_start
from dim_date as calendar;

comment on view serving.dim_date is 'The calendar, from 2000 to the end of next year. One row per day.';
comment on column serving.dim_date.date_id is 'The day as a number, as 20261127: the key.';
comment on column serving.dim_date.date is 'The day, in UTC.';
comment on column serving.dim_date.year is 'The year.';
comment on column serving.dim_date.quarter is 'The quarter, 1 to 4.';
comment on column serving.dim_date.month is 'The month, 1 to 12.';
comment on column serving.dim_date.day is 'The day of the month, 1 to 31.';
comment on column serving.dim_date.day_of_week is '1 (Monday) to 7 (Sunday).';
comment on column serving.dim_date.week_of_year is 'The ISO week, 1 to 53.';
comment on column serving.dim_date.is_weekend is 'Whether it is a Saturday or a Sunday.';
comment on column serving.dim_date.month_name is 'The name of the month, in English.';
comment on column serving.dim_date.day_name is 'The name of the day of the week, in English.';
comment on column serving.dim_date.quarter_label is 'The quarter with its year, as 2026-Q4.';
comment on column serving.dim_date.month_label is 'The month with its year, as 2026-11.';
comment on column serving.dim_date.week_label is 'The ISO week with its ISO year, as 2026-W48.';
comment on column serving.dim_date.quarter_start is 'The first day of the quarter.';
comment on column serving.dim_date.month_start is 'The first day of the month.';
comment on column serving.dim_date.week_start is 'The Monday of the ISO week.';

-- dates are empty where the unknown member says 0001-01-01: Power BI knows no day before 1900
create view serving.dim_customers as
select
    customer.customer_id,
    customer.user_id,
    min(customer.customer_id) over same as customer_number,
    customer.customer_segment,
    max(customer.customer_segment) filter (where customer.is_current) over same as current_segment,
    max(customer.first_transaction_date) filter (where customer.is_current) over same as first_transaction_date,
    max(customer.last_transaction_date) filter (where customer.is_current) over same as last_transaction_date,
    nullif(customer.effective_date, '0001-01-01'::date) as effective_date,
    customer.end_date,
    customer.is_current
from dim_customers as customer
window same as (partition by customer.user_id);

comment on view serving.dim_customers is
'Customers with the segments that they have been in. One row per customer and version; -1 is the unknown customer.';
comment on column serving.dim_customers.customer_id is 'The version of the customer: the key.';
comment on column serving.dim_customers.user_id is 'The customer; empty for the unknown one.';
comment on column serving.dim_customers.customer_number is
'A number for the customer, the same in all versions. Count it distinct.';
comment on column serving.dim_customers.customer_segment is
'The segment of this version: New, Low Value, Medium Value, High Value or Unknown.';
comment on column serving.dim_customers.current_segment is 'The segment that the customer is in now.';
comment on column serving.dim_customers.first_transaction_date is
'The day of the first order of all, if there is one; the same in all versions.';
comment on column serving.dim_customers.last_transaction_date is
'The day of the last order of all, if there is one; the same in all versions.';
comment on column serving.dim_customers.effective_date is
'The first day of this version; empty for the unknown customer.';
comment on column serving.dim_customers.end_date is 'The day after its last one; empty for the current version.';
comment on column serving.dim_customers.is_current is 'Whether it is the current version.';

create view serving.dim_products as
select
    product.product_id_pk,
    product.product_id,
    min(product.product_id_pk) over same as product_number,
    product.category,
    max(product.category) filter (where product.is_current) over same as current_category,
    nullif(product.effective_date, '0001-01-01'::date) as effective_date,
    product.end_date,
    product.is_current
from dim_products as product
window same as (partition by product.product_id);

comment on view serving.dim_products is
'Products with the categories that they have been in. One row per product and version; -1 is the unknown product.';
comment on column serving.dim_products.product_id_pk is 'The version of the product: the key.';
comment on column serving.dim_products.product_id is 'The product; empty for the unknown one.';
comment on column serving.dim_products.product_number is
'A number for the product, the same in all versions. Count it distinct.';
comment on column serving.dim_products.category is 'The category of this version.';
comment on column serving.dim_products.current_category is 'The category that the product is in now.';
comment on column serving.dim_products.effective_date is
'The first day of this version; empty for the unknown product.';
comment on column serving.dim_products.end_date is 'The day after its last one; empty for the current version.';
comment on column serving.dim_products.is_current is 'Whether it is the current version.';

create view serving.dim_geography as
select
    place.geography_id,
    coalesce(nullif(place.country, ''), 'Unknown') as country
from dim_geography as place;

comment on view serving.dim_geography is 'Countries. One row per country; -1 stands for events that name none.';
comment on column serving.dim_geography.geography_id is 'The key.';
comment on column serving.dim_geography.country is 'The country; Unknown where an event doesn''t say.';

-- Ids of orders and sessions are text that may differ in case only, and Power BI doesn't tell a from A; a number of
-- 64 bits made of the id does, and takes less memory. Two of 100 million orders share one with a chance of 1 in 3,700.
-- Its fixed decimals end at 9.2 × 10¹⁴, below the largest amount of an order line; whole cents fit.
create view serving.fact_sales as
select
    fact.event_id,
    fact.transaction_id,
    hashtextextended(fact.transaction_id, 0) as order_key,
    fact.date_id,
    fact.customer_id,
    fact.product_id_pk,
    fact.geography_id,
    fact.transaction_timestamp,
    extract(hour from fact.transaction_timestamp at time zone 'UTC')::integer as hour,
    fact.quantity,
    fact.unit_price,
    fact.total_amount,
    (fact.total_amount * 100)::bigint as total_cents
from fact_sales as fact;

comment on view serving.fact_sales is 'Sales, as loaded. One row per order line.';
comment on column serving.fact_sales.event_id is 'The order''s id and the number of the line, as order:1.';
comment on column serving.fact_sales.transaction_id is 'The order.';
comment on column serving.fact_sales.order_key is
'A number for the order. Count it distinct: an order has a row for each of its lines.';
comment on column serving.fact_sales.date_id is 'The UTC day (dim_date).';
comment on column serving.fact_sales.customer_id is 'The customer, in the version valid on the day (dim_customers).';
comment on column serving.fact_sales.product_id_pk is 'The product, in the version valid on the day (dim_products).';
comment on column serving.fact_sales.geography_id is 'Where it was sold (dim_geography).';
comment on column serving.fact_sales.transaction_timestamp is 'When it was sold.';
comment on column serving.fact_sales.hour is 'The hour of the day, 0 to 23, in UTC.';
comment on column serving.fact_sales.quantity is 'How many.';
comment on column serving.fact_sales.unit_price is 'The price of one.';
comment on column serving.fact_sales.total_amount is 'quantity × unit_price, rounded to the cent. Add it up freely.';
comment on column serving.fact_sales.total_cents is 'The same in cents, a whole number.';

create view serving.fact_product_views as
select
    fact.event_id,
    fact.date_id,
    fact.customer_id,
    fact.product_id_pk,
    fact.geography_id,
    fact.event_timestamp,
    extract(hour from fact.event_timestamp at time zone 'UTC')::integer as hour,
    fact.event_type,
    fact.session_id,
    hashtextextended(fact.session_id, 0) as session_key,
    fact.view_duration
from fact_product_views as fact;

comment on view serving.fact_product_views is 'What was looked at, as loaded. One row per view.';
comment on column serving.fact_product_views.event_id is 'The view.';
comment on column serving.fact_product_views.date_id is 'The UTC day (dim_date).';
comment on column serving.fact_product_views.customer_id is
'The customer, in the version valid on the day (dim_customers); need not have bought anything.';
comment on column serving.fact_product_views.product_id_pk is
'The product, in the version valid on the day (dim_products).';
comment on column serving.fact_product_views.geography_id is 'Where the customer was (dim_geography).';
comment on column serving.fact_product_views.event_timestamp is 'When it was looked at.';
comment on column serving.fact_product_views.hour is 'The hour of the day, 0 to 23, in UTC.';
comment on column serving.fact_product_views.event_type is 'view.';
comment on column serving.fact_product_views.session_id is 'The visit, if the event names one.';
comment on column serving.fact_product_views.session_key is 'A number for the visit. Count it distinct.';
comment on column serving.fact_product_views.view_duration is 'How long, in seconds, if the event says so.';

create view serving.fact_cart_events as
select
    fact.event_id,
    fact.date_id,
    fact.customer_id,
    fact.product_id_pk,
    fact.geography_id,
    fact.event_timestamp,
    extract(hour from fact.event_timestamp at time zone 'UTC')::integer as hour,
    fact.event_type,
    fact.session_id,
    hashtextextended(fact.session_id, 0) as session_key,
    fact.quantity,
    fact.total_amount
from fact_cart_events as fact;

comment on view serving.fact_cart_events is 'What happened to carts, as loaded. One row per event.';
comment on column serving.fact_cart_events.event_id is 'The event.';
comment on column serving.fact_cart_events.date_id is 'The UTC day (dim_date).';
comment on column serving.fact_cart_events.customer_id is
'The customer, in the version valid on the day (dim_customers).';
comment on column serving.fact_cart_events.product_id_pk is
'The product, in the version valid on the day (dim_products).';
comment on column serving.fact_cart_events.geography_id is 'Where the customer was (dim_geography).';
comment on column serving.fact_cart_events.event_timestamp is 'When it happened.';
comment on column serving.fact_cart_events.hour is 'The hour of the day, 0 to 23, in UTC.';
comment on column serving.fact_cart_events.event_type is 'add, remove, update or checkout.';
comment on column serving.fact_cart_events.session_id is 'The visit, if the event names one.';
comment on column serving.fact_cart_events.session_key is 'A number for the visit. Count it distinct.';
comment on column serving.fact_cart_events.quantity is 'How many, if the event says so.';
comment on column serving.fact_cart_events.total_amount is
'quantity × price, rounded to the cent, if the event gives both.';

create view serving.rfm_snapshot as
select
    customer.customer_id,
    score.user_id,
    score.analysis_date,
    score.recency_days,
    score.frequency_count,
    score.monetary_value,
    score.recency_score,
    score.frequency_score,
    score.monetary_score,
    score.rfm_segment
from rfm_analysis as score
inner join dim_customers as customer on score.user_id = customer.user_id and customer.is_current
where score.analysis_date = (
    select loaded.run_date from serving.loaded as loaded
    where loaded.job = 'analytics/rfm_analysis'
);

comment on view serving.rfm_snapshot is
'Recency, frequency and money of the last cycle. One row per customer with a sale before the day of the cut.';
comment on column serving.rfm_snapshot.customer_id is 'The customer, in the current version (dim_customers).';
comment on column serving.rfm_snapshot.user_id is 'The customer.';
comment on column serving.rfm_snapshot.analysis_date is 'The day of the cut: the days before it are covered.';
comment on column serving.rfm_snapshot.recency_days is 'Days since the last order.';
comment on column serving.rfm_snapshot.frequency_count is 'Orders.';
comment on column serving.rfm_snapshot.monetary_value is 'Money spent.';
comment on column serving.rfm_snapshot.recency_score is '1 (longest ago) to 5.';
comment on column serving.rfm_snapshot.frequency_score is '1 (fewest) to 5.';
comment on column serving.rfm_snapshot.monetary_score is '1 (least) to 5.';
comment on column serving.rfm_snapshot.rfm_segment is 'Champions, Loyal, At Risk … (docs/data-model.md).';

-- for security by row: whoever may see a country may see the customers that were seen there
create view serving.customer_countries as
with seen as (
    select
        sold.customer_id,
        sold.geography_id
    from fact_sales as sold
    union
    select
        looked.customer_id,
        looked.geography_id
    from fact_product_views as looked
    union
    select
        put.customer_id,
        put.geography_id
    from fact_cart_events as put
)

select distinct
    customer.customer_number,
    place.country
from seen
inner join serving.dim_customers as customer using (customer_id)
inner join serving.dim_geography as place using (geography_id);

comment on view serving.customer_countries is
'Where each customer has bought, looked or filled a cart. One row per customer and country.';
comment on column serving.customer_countries.customer_number is
'A number for the customer, the same in all versions (dim_customers).';
comment on column serving.customer_countries.country is 'The country; Unknown where an event doesn''t say.';

grant select on all tables in schema serving to globalmart_reader, globalmart_etl;
