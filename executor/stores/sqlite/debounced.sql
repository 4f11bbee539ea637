-- Runs of playbooks with `debounce`: starts with a key join the run of its row while it has not begun. `key`
-- is a digest.
create table debounced (
    key text primary key,
    run_id text not null
) without rowid;
create index debounced_of_runs on debounced (run_id);
