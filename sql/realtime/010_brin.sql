-- Batches come in order, so block ranges find a load's events as well as a B-tree does, and cost a row next to nothing.
-- New blocks are summarized as they fill; until then they are looked through.
drop index idx_transactions_batch, idx_product_view_events_batch, idx_cart_events_batch;

create index idx_transactions_batch on transactions
using brin (ingest_batch_id) with (pages_per_range = 32, autosummarize = on);
create index idx_product_view_events_batch on product_view_events
using brin (ingest_batch_id) with (pages_per_range = 32, autosummarize = on);
create index idx_cart_events_batch on cart_events
using brin (ingest_batch_id) with (pages_per_range = 32, autosummarize = on);
