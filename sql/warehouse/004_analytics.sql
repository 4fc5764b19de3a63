create table product_performance (
    performance_id bigint generated always as identity primary key,
    product_id varchar(100) not null,
    category varchar(100) not null,
    analysis_date date not null,
    total_sales bigint not null default 0,
    total_revenue numeric(18, 2) not null default 0,
    total_quantity bigint not null default 0,
    total_views bigint not null default 0,
    conversion_rate double precision,
    avg_price double precision,
    created_at timestamptz not null default clock_timestamp(),
    unique (product_id, analysis_date)
);

create index idx_product_performance_date on product_performance (analysis_date);

create table customer_segments (
    segment_id integer generated always as identity primary key,
    segment_name varchar(50) not null unique,
    customer_count bigint not null default 0,
    total_revenue numeric(18, 2) not null default 0,
    avg_order_value double precision not null default 0,
    analysis_date date not null,
    updated_at timestamptz not null default clock_timestamp()
);

create table rfm_analysis (
    rfm_id bigint generated always as identity primary key,
    user_id varchar(100) not null,
    analysis_date date not null,
    recency_days integer not null check (recency_days > 0),
    frequency_count bigint not null check (frequency_count > 0),
    monetary_value numeric(18, 2) not null,
    recency_score integer not null check (recency_score between 1 and 5),
    frequency_score integer not null check (frequency_score between 1 and 5),
    monetary_score integer not null check (monetary_score between 1 and 5),
    rfm_segment varchar(50) not null,
    created_at timestamptz not null default clock_timestamp(),
    unique (analysis_date, user_id)
);

create table sales_trends (
    trend_id bigint generated always as identity primary key,
    period_type varchar(20) not null check (period_type in ('weekly', 'monthly', 'quarterly')),
    period_value varchar(50) not null,
    category varchar(100) not null,
    total_sales bigint not null default 0,
    total_revenue numeric(18, 2) not null default 0,
    avg_order_value double precision,
    total_quantity bigint not null default 0,
    growth_rate double precision,
    is_running boolean not null,
    analysis_date date not null,
    created_at timestamptz not null default clock_timestamp(),
    unique (period_type, period_value, category)
);

grant select, insert, update, delete on product_performance, customer_segments, rfm_analysis, sales_trends
to globalmart_etl;
