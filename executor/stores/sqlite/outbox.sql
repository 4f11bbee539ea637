-- The path of a webhook, and the playbook whose ended runs a trigger waits for.
alter table triggers add column path text;
alter table triggers add column awaits text;
create unique index triggers_path on triggers (tenant, path) where path is not null;
create index triggers_awaits on triggers (tenant, awaits) where awaits is not null;
-- What is done after runs have ended, or if they are late. `record` is the JSON of an entry. `position` has
-- the order of the entries of a kind. `due_at` is null if an entry is not performed by itself any more.
create table outbox (
    tenant text not null,
    id text not null,
    kind text not null,
    position text not null,
    due_at real,
    expires_at real,
    edition integer not null,
    record text not null,
    primary key (tenant, id)
) without rowid;
create index outbox_due on outbox (kind, due_at) where due_at is not null;
create index outbox_position on outbox (tenant, kind, position);
create index outbox_expires on outbox (expires_at) where expires_at is not null;
-- Channels to which notifications are sent. `record` is their JSON. `events` are those events of all runs of
-- the tenant that they receive, as JSON; null if there are none.
create table channels (
    tenant text not null,
    name text not null,
    events text,
    edition integer not null,
    record text not null,
    primary key (tenant, name)
) without rowid;
