-- Rules of views, beside those of events.sql.

-- name: plausible_duration()
-- A view lasts at most an hour.
select
    event_id,
    view_duration
from loaded
where view_duration > 3600;
