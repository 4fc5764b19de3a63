-- where Kafka has said that offsets behind the head have no message: partition -> [head, next offset to read]
-- it counts only while the head is between the two, so that a head that is moved by hand needs nothing else
alter table ops.ingest_heads add column passed_offsets jsonb not null default '{}';
