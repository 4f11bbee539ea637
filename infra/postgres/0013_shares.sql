-- Claims take in turn the longest due visits of any kind, and of those that wait for nothing.
create index visits_ready on visits (((queue || ' ' || tenant) collate "C"), due_at, position)
    where status = 'ready';
-- No claim may read the index of the active visits of a run, which has no due times. While it has few live
-- entries, the planner took all entries of it for few, although a held snapshot kept the dead ones.
drop index visits_active;
create index visits_active on visits (run_id, status) where finished_at is null;
