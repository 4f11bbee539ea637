-- Claims take the tenants in turn: they find the next tenant, and its visit that has been due longest.
-- Visits that a worker of an earlier version adds during an upgrade have no tenant, and a turn of their own.
alter table visits add column tenant text not null default '?';
update visits set tenant = runs.tenant from runs where runs.id = visits.run_id
    and visits.status in ('ready', 'retrying', 'waiting', 'running', 'parked', 'failed');
create index visits_turns on visits (((queue || ' ' || tenant) collate "C"), due_at, position)
    where status in ('ready', 'retrying', 'waiting', 'running');
