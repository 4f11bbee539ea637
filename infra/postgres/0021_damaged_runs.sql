-- Runs that are damaged. Workers do not claim their visits until they are repaired.
create table damaged_runs (
    run_id text primary key,
    reason text not null,
    found_at double precision not null
);
