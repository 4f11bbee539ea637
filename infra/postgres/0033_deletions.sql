-- Runs that were deleted, and that have left rows. They do not exist for readers, and no run with the id of
-- one of them begins before the rows are deleted.
create table deletions (
    run_id text primary key,
    tenant text not null
);
