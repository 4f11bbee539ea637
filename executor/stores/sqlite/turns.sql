-- Claims take the tenants in turn: they find the next tenant, and its visit that has been due longest.
-- Visits that a worker of an earlier version adds during an upgrade have no tenant, and a turn of their own.
alter table visits add column tenant text not null default '?';
update visits set tenant = coalesce((select tenant from runs where id = visits.run_id), '?');
create index visits_turns on visits (((queue || ' ' || tenant) collate binary), due_at, position)
    where (status = 'ready' or status = 'running' or status = 'waiting' or status = 'retrying');
