-- Rules of dim_date: the calendar is small, so that all of it is looked at.

-- name: no_hole(run_date)
-- There is one row for each day from the first to the last, and the run date's year and the next are there.
select
    count(*) as days,
    min(date) as first_day,
    max(date) as last_day
from dim_date
having
    count(*) is distinct from max(date) - min(date) + 1
    or min(date) <> '2000-01-01'
    or max(date) < make_date(extract(year from :run_date)::integer + 1, 12, 31);

-- name: parts_of_the_date()
-- Year, quarter, month, day, weekday and ISO week are those of the date.
select
    date,
    day_of_week,
    week_of_year,
    is_weekend
from dim_date
where
    (year, quarter, month, day) <> (
        extract(year from date), extract(quarter from date), extract(month from date), extract(day from date)
    )
    or (day_of_week, week_of_year) <> (extract(isodow from date), extract(week from date))
    or is_weekend <> (extract(isodow from date) >= 6);
