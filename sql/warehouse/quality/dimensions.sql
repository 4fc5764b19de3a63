-- Rules of every dimension with versions. `staged` has each `key` that occurs in this load and its `first_date`,
-- `loaded` the versions of these keys, and `versions` those of all.

-- name: every_key()
-- Every key that occurs has a version.
select key from staged
except
select key from loaded;

-- name: versions_follow_on()
-- The versions of a key follow each other without gap or overlap, and the last one is current.
with ordered as (
    select
        key,
        effective_date,
        end_date,
        is_current,
        lag(end_date) over of_key as ended,
        row_number() over of_key as number,
        count(*) over (partition by key) as versions
    from loaded
    window of_key as (partition by key order by effective_date)
)

select
    key,
    effective_date,
    end_date,
    is_current
from ordered
where (number > 1 and ended is distinct from effective_date) or is_current <> (number = versions);

-- name: starts_in_time()
-- No key begins after the day of its first event.
select
    key,
    min(loaded.effective_date) as effective_date,
    min(staged.first_date) as first_date
from loaded
inner join staged using (key)
group by key
having min(loaded.effective_date) > min(staged.first_date);

-- name: unknown_member()
-- The unknown member is there, once.
select count(*) as unknown_members
from versions
where key = ''
having count(*) <> 1;
