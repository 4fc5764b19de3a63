-- what lets the cost of a cycle follow the new data: what is known of earlier data, kept up to each job's watermark

-- the totals of customers are those of their current version: days that are settled need none of their own
drop table ops.customer_totals;

-- the first and the last vote on each product's category on the day that is open
create table ops.product_votes (
    product_id varchar(100) not null,
    booked date not null,
    time timestamptz not null,
    id varchar(100) collate "C" not null,
    line integer not null,
    category varchar(100) not null,
    primary key (product_id, booked, time, id, line)
);

-- rows of a fact, and its sum of total_amount, by the day of the event
create table ops.fact_days (
    fact varchar(100) not null,
    date_id integer not null references dim_date,
    row_count bigint not null,
    amount numeric(18, 2),
    primary key (fact, date_id)
);

insert into ops.fact_days (fact, date_id, row_count, amount)
select
    'fact_sales' as fact,
    date_id,
    count(*) as row_count,
    sum(total_amount) as amount
from fact_sales
group by date_id
union all
select
    'fact_cart_events' as fact,
    date_id,
    count(*) as row_count,
    sum(total_amount) as amount
from fact_cart_events
group by date_id
union all
select
    'fact_product_views' as fact,
    date_id,
    count(*) as row_count,
    null as amount
from fact_product_views
group by date_id;

-- sales of a day, by the category that was valid on it, and in total (All); an order counts once in each
create table ops.sales_days (
    date date not null,
    category varchar(100) not null,
    orders bigint not null,
    quantity bigint not null,
    revenue numeric(18, 2) not null,
    primary key (date, category)
);

grant select, insert, update, delete on ops.product_votes, ops.fact_days, ops.sales_days to globalmart_etl;
