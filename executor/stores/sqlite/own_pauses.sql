-- Runs that were paused by a request of their own, and not only with their parent.
create table own_pauses (
    run_id text primary key
) without rowid;
