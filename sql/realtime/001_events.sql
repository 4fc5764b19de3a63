-- raw events, one row per event, keyed by the event's own id
-- roles belong to the server, so another database of it may have this one already
do $$
begin
    if not exists (select from pg_roles where rolname = 'globalmart_saver') then
        create role globalmart_saver nologin;
    end if;
end
$$;

create table transactions (
    transaction_id varchar(100) primary key check (transaction_id <> ''),
    user_id varchar(100) not null check (user_id <> ''),
    transaction_timestamp timestamptz not null,
    total_amount numeric(18, 2) not null check (total_amount >= 0),
    country varchar(100),
    products jsonb not null check (jsonb_array_length(products) > 0),
    extra jsonb,
    kafka_partition integer not null,
    kafka_offset bigint not null,
    ingest_batch_id bigint not null,
    created_at timestamptz not null default clock_timestamp()
);

create index idx_transactions_timestamp on transactions (transaction_timestamp);
create index idx_transactions_user on transactions (user_id);
create index idx_transactions_batch on transactions (ingest_batch_id);

create table product_view_events (
    event_id varchar(100) primary key check (event_id <> ''),
    event_type varchar(50) not null check (event_type = 'view'),
    user_id varchar(100) not null check (user_id <> ''),
    product_id varchar(100) not null check (product_id <> ''),
    session_id varchar(100),
    event_timestamp timestamptz not null,
    country varchar(100),
    category varchar(100),
    view_duration integer check (view_duration >= 0),
    extra jsonb,
    kafka_partition integer not null,
    kafka_offset bigint not null,
    ingest_batch_id bigint not null,
    created_at timestamptz not null default clock_timestamp()
);

create index idx_product_view_events_timestamp on product_view_events (event_timestamp);
create index idx_product_view_events_user on product_view_events (user_id);
create index idx_product_view_events_batch on product_view_events (ingest_batch_id);

create table cart_events (
    event_id varchar(100) primary key check (event_id <> ''),
    event_type varchar(50) not null check (event_type in ('add', 'remove', 'update', 'checkout')),
    user_id varchar(100) not null check (user_id <> ''),
    product_id varchar(100) not null check (product_id <> ''),
    session_id varchar(100),
    event_timestamp timestamptz not null,
    country varchar(100),
    category varchar(100),
    quantity integer check (quantity >= 0),
    price numeric(18, 4) check (price >= 0),
    extra jsonb,
    kafka_partition integer not null,
    kafka_offset bigint not null,
    ingest_batch_id bigint not null,
    created_at timestamptz not null default clock_timestamp()
);

create index idx_cart_events_timestamp on cart_events (event_timestamp);
create index idx_cart_events_user on cart_events (user_id);
create index idx_cart_events_batch on cart_events (ingest_batch_id);

grant select, insert on transactions, product_view_events, cart_events to globalmart_saver;
