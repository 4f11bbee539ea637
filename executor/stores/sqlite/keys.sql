-- API keys. The key itself is kept nowhere: `hash` is the SHA-256 of it. A revoked one stays, so that it is known who had it.
create table keys (
    id text primary key,
    hash text not null,
    tenant text not null,
    name text not null,
    scopes text not null,
    created_at real not null,
    last_used_at real,
    revoked_at real
) without rowid;
create index keys_oldest on keys (tenant, created_at, id);
