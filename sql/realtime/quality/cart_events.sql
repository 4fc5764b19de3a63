-- Rules of cart events, beside those of events.sql.

-- name: says_how_many()
-- Who adds or changes something says how many, and at what price.
select
    event_id,
    event_type,
    quantity,
    price
from loaded
where event_type in ('add', 'update') and (quantity is null or quantity = 0 or price is null);
