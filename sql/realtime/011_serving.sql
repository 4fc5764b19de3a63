-- What the warehouse reads beside its facts: events as the facts' jobs see them, without held ones. If an event was
-- held, its batch is that under which the job had loaded it before, else that of its release (lib/warehouse/held.py).
-- A condition on the batch goes into both branches of each view, where an index answers it.
do $$
begin
    if not exists (select from pg_roles where rolname = 'globalmart_reader') then
        create role globalmart_reader nologin;
    end if;
end
$$;

create schema serving;

create view serving.order_lines as
select
    stored.transaction_id,
    stored.line,
    stored.user_id,
    stored.country,
    stored.transaction_timestamp,
    stored.product_id,
    stored.quantity,
    stored.unit_price,
    stored.total_amount,
    stored.ingest_batch_id
from order_lines as stored
where
    not exists (
        select from ops.held_events as held
        where held.source_table = 'transactions' and held.event_id = stored.transaction_id
    )
union all
select
    stored.transaction_id,
    stored.line,
    stored.user_id,
    stored.country,
    stored.transaction_timestamp,
    stored.product_id,
    stored.quantity,
    stored.unit_price,
    stored.total_amount,
    coalesce((held.loaded_by ->> 'etl/fact_sales')::bigint, held.released_batch) as ingest_batch_id
from ops.held_events as held
inner join order_lines as stored on held.event_id = stored.transaction_id
where
    held.source_table = 'transactions'
    and coalesce((held.loaded_by ->> 'etl/fact_sales')::bigint, held.released_batch) is not null;

create view serving.product_views as
select
    stored.event_id,
    stored.event_type,
    stored.user_id,
    stored.product_id,
    stored.session_id,
    stored.country,
    stored.event_timestamp,
    stored.view_duration,
    stored.ingest_batch_id
from product_view_events as stored
where
    not exists (
        select from ops.held_events as held
        where held.source_table = 'product_view_events' and held.event_id = stored.event_id
    )
union all
select
    stored.event_id,
    stored.event_type,
    stored.user_id,
    stored.product_id,
    stored.session_id,
    stored.country,
    stored.event_timestamp,
    stored.view_duration,
    coalesce((held.loaded_by ->> 'etl/fact_product_views')::bigint, held.released_batch) as ingest_batch_id
from ops.held_events as held
inner join product_view_events as stored on held.event_id = stored.event_id
where
    held.source_table = 'product_view_events'
    and coalesce((held.loaded_by ->> 'etl/fact_product_views')::bigint, held.released_batch) is not null;

create view serving.cart_events as
select
    stored.event_id,
    stored.event_type,
    stored.user_id,
    stored.product_id,
    stored.session_id,
    stored.country,
    stored.event_timestamp,
    stored.quantity,
    round(stored.quantity * stored.price, 2)::numeric(38, 2) as total_amount,
    stored.ingest_batch_id
from cart_events as stored
where
    not exists (
        select from ops.held_events as held
        where held.source_table = 'cart_events' and held.event_id = stored.event_id
    )
union all
select
    stored.event_id,
    stored.event_type,
    stored.user_id,
    stored.product_id,
    stored.session_id,
    stored.country,
    stored.event_timestamp,
    stored.quantity,
    round(stored.quantity * stored.price, 2)::numeric(38, 2) as total_amount,
    coalesce((held.loaded_by ->> 'etl/fact_cart_events')::bigint, held.released_batch) as ingest_batch_id
from ops.held_events as held
inner join cart_events as stored on held.event_id = stored.event_id
where
    held.source_table = 'cart_events'
    and coalesce((held.loaded_by ->> 'etl/fact_cart_events')::bigint, held.released_batch) is not null;

-- how far ingestion is, and what is held; the counters rise with every event that is stored, held or released
create view serving.ingestion as
select
    head.source_table,
    head.last_batch,
    head.heartbeat_at,
    last.committed_at,
    last.last_event_at,
    (
        select count(*) from ops.held_events as held
        where held.source_table = head.source_table
    ) as ever_held,
    (
        select count(*) from ops.held_events as held
        where held.source_table = head.source_table and held.released_at is null
    ) as held,
    (
        select count(*) from ops.dead_letters as letter
        where letter.source_table = head.source_table and letter.replayed_at is null
    ) as dead_letters
from ops.ingest_heads as head
left join lateral (
    select
        batch.committed_at,
        batch.last_event_at
    from ops.ingest_batches as batch
    where batch.source_table = head.source_table
    order by batch.ingest_batch_id desc
    limit 1
) as last on true;

grant usage on schema serving to globalmart_reader, globalmart_saver;
grant select on all tables in schema serving to globalmart_reader, globalmart_saver;
