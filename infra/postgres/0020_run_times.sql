-- Work, waiting and queued time of runs up to an entry of their history, from which a reader measures on.
create table run_times (
    run_id text primary key,
    body text not null
);
