-- Triggers of the newest versions of playbooks, and their firings. `record` is their JSON. `due_at` is null
-- if a trigger is paused, or does not fire any more.
create table triggers (
    tenant text not null,
    playbook text not null,
    name text not null,
    version text not null,
    due_at real,
    edition integer not null,
    record text not null,
    primary key (tenant, playbook, name)
) without rowid;
create index triggers_due on triggers (due_at) where due_at is not null;
-- `position` has the order of the firings of a trigger.
create table firings (
    tenant text not null,
    playbook text not null,
    name text not null,
    position text not null,
    fired_at real not null,
    record text not null,
    primary key (tenant, playbook, name, position)
) without rowid;
create index firings_oldest on firings (fired_at);
-- Name, type and time of the trigger that has started a run, as JSON; null if none has.
alter table runs add column trigger text;
