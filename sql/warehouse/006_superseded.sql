-- a fresh rebuild replaces all cuts by one; the old ones stay for the runs that refer to them
alter table ops.cuts add column superseded_by bigint references ops.cuts;
