-- Runs that were deleted, and that have left rows. They do not exist for readers, and no run with the id of
-- one of them begins before the rows are deleted.
create table deletions (
    run_id text primary key,
    tenant text not null
) without rowid;

-- Commands that some child runs of a run have not followed yet. `command` is `pause`, `unpause` or `cancel`.
-- `visit_id` is empty if the command concerns the child runs of all visits, without those of `except_visit`.
create table cascades (
    run_id text not null,
    visit_id text not null,
    command text not null,
    except_visit text not null,
    after_created_at real,
    after_id text,
    caller text,
    primary key (run_id, visit_id)
) without rowid;
