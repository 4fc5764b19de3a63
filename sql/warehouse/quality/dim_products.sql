-- Rules of dim_products, beside those of dimensions.sql.

-- name: no_total()
-- No category is called `All`, the name of the total.
select
    key,
    effective_date,
    category
from loaded
where category = 'All';
