-- a few of the rows that a rule found
alter table ops.data_quality add column examples jsonb not null default '[]';
