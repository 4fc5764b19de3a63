-- Who may ask the API, and what. Of a key only its hash is kept: it is shown once, when it is made.
create table ops.api_keys (
    key_id text primary key check (key_id ~ '^[a-z0-9]{8}$'),
    client text not null check (client <> ''),
    sha256 bytea not null unique check (length(sha256) = 32),
    scopes text[] not null check (cardinality(scopes) > 0),
    per_minute integer not null check (per_minute > 0),
    created_at timestamptz not null default clock_timestamp(),
    expires_at timestamptz,
    revoked_at timestamptz
);

create view serving.api_keys as
select
    known.key_id,
    known.client,
    known.sha256,
    known.scopes,
    known.per_minute,
    known.created_at,
    known.expires_at,
    known.revoked_at
from ops.api_keys as known;

comment on view serving.api_keys is 'Who may ask the API. One row per key.';
comment on column serving.api_keys.key_id is 'The part of the key that isn''t secret.';
comment on column serving.api_keys.client is 'Whose it is.';
comment on column serving.api_keys.sha256 is 'The hash of the key.';
comment on column serving.api_keys.scopes is 'The areas that it opens: products, customers, sales, pipeline, reports.';
comment on column serving.api_keys.per_minute is 'Requests that it may make in a minute.';
comment on column serving.api_keys.created_at is 'When it was made.';
comment on column serving.api_keys.expires_at is 'When it ends, if it ends.';
comment on column serving.api_keys.revoked_at is 'When it was revoked, if it was.';

grant select on serving.api_keys to globalmart_reader, globalmart_etl;
grant select, insert, update on ops.api_keys to globalmart_etl;
