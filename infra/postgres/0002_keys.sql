-- API keys. `hash` is the SHA-256 of a key; the key itself is not stored. The row of a revoked key stays.
create table keys (
    id text primary key,
    hash text not null,
    tenant text not null,
    name text not null,
    scopes text not null,
    created_at double precision not null,
    last_used_at double precision,
    revoked_at double precision
);
create index keys_oldest on keys (tenant, created_at, id);
