-- facts, append-only; date_id and the dimension keys are those of the event's own UTC day
create table fact_sales (
    event_id varchar(120) primary key, -- <transaction_id>:<line number>
    transaction_id varchar(100) not null,
    date_id integer not null references dim_date,
    customer_id integer not null references dim_customers,
    product_id_pk integer not null references dim_products,
    geography_id integer not null references dim_geography,
    transaction_timestamp timestamptz not null,
    quantity integer not null check (quantity >= 1),
    unit_price numeric(18, 4) not null check (unit_price >= 0),
    total_amount numeric(18, 2) not null,
    ingest_batch_id bigint not null,
    created_at timestamptz not null default clock_timestamp(),
    check (total_amount = round(quantity * unit_price, 2))
);

create index idx_fact_sales_date on fact_sales (date_id);
create index idx_fact_sales_customer on fact_sales (customer_id);
create index idx_fact_sales_product on fact_sales (product_id_pk);
create index idx_fact_sales_geography on fact_sales (geography_id);
create index idx_fact_sales_timestamp on fact_sales (transaction_timestamp);
create index idx_fact_sales_batch on fact_sales (ingest_batch_id);

create table fact_product_views (
    event_id varchar(100) primary key,
    date_id integer not null references dim_date,
    customer_id integer not null references dim_customers,
    product_id_pk integer not null references dim_products,
    geography_id integer not null references dim_geography,
    event_timestamp timestamptz not null,
    event_type varchar(50) not null,
    session_id varchar(100),
    view_duration integer,
    ingest_batch_id bigint not null,
    created_at timestamptz not null default clock_timestamp()
);

create index idx_fact_product_views_date on fact_product_views (date_id);
create index idx_fact_product_views_customer on fact_product_views (customer_id);
create index idx_fact_product_views_product on fact_product_views (product_id_pk);
create index idx_fact_product_views_geography on fact_product_views (geography_id);
create index idx_fact_product_views_timestamp on fact_product_views (event_timestamp);
create index idx_fact_product_views_batch on fact_product_views (ingest_batch_id);

create table fact_cart_events (
    event_id varchar(100) primary key,
    date_id integer not null references dim_date,
    customer_id integer not null references dim_customers,
    product_id_pk integer not null references dim_products,
    geography_id integer not null references dim_geography,
    event_timestamp timestamptz not null,
    event_type varchar(50) not null,
    session_id varchar(100),
    quantity integer,
    total_amount numeric(18, 2),
    ingest_batch_id bigint not null,
    created_at timestamptz not null default clock_timestamp()
);

create index idx_fact_cart_events_date on fact_cart_events (date_id);
create index idx_fact_cart_events_customer on fact_cart_events (customer_id);
create index idx_fact_cart_events_product on fact_cart_events (product_id_pk);
create index idx_fact_cart_events_geography on fact_cart_events (geography_id);
create index idx_fact_cart_events_timestamp on fact_cart_events (event_timestamp);
create index idx_fact_cart_events_batch on fact_cart_events (ingest_batch_id);

create function ops.refuse_change() returns trigger language plpgsql as $$
begin
    raise exception '% on % is refused: facts are append-only', tg_op, tg_table_name using errcode = 'restrict_violation';
end
$$;

create trigger append_only before update or delete or truncate on fact_sales
for each statement execute function ops.refuse_change();
create trigger append_only before update or delete or truncate on fact_product_views
for each statement execute function ops.refuse_change();
create trigger append_only before update or delete or truncate on fact_cart_events
for each statement execute function ops.refuse_change();

grant select, insert on fact_sales, fact_product_views, fact_cart_events to globalmart_etl;
