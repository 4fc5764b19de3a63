-- The days of a fact that have to be summed again: those with rows above a watermark, and those of products whose first
-- version has changed in place since.

-- name: fact_sales(after, cut_id, run_date)
select date_id from fact_sales
where ingest_batch_id > :after
union
select f.date_id
from fact_sales as f
inner join dim_products as p on f.product_id_pk = p.product_id_pk
where p.changed_by_cut > :cut_id and p.first_booked_date >= :run_date;

-- name: fact_product_views(after, cut_id, run_date)
select date_id from fact_product_views
where ingest_batch_id > :after
union
select f.date_id
from fact_product_views as f
inner join dim_products as p on f.product_id_pk = p.product_id_pk
where p.changed_by_cut > :cut_id and p.first_booked_date >= :run_date;
