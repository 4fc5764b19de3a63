-- A load's batches follow those of the one before: block ranges find its rows as well as a B-tree, and cost less.
drop index idx_fact_sales_batch, idx_fact_product_views_batch, idx_fact_cart_events_batch;

create index idx_fact_sales_batch on fact_sales
using brin (ingest_batch_id) with (pages_per_range = 32, autosummarize = on);
create index idx_fact_product_views_batch on fact_product_views
using brin (ingest_batch_id) with (pages_per_range = 32, autosummarize = on);
create index idx_fact_cart_events_batch on fact_cart_events
using brin (ingest_batch_id) with (pages_per_range = 32, autosummarize = on);
