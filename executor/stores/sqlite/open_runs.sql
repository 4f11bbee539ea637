-- Sweeps look at the runs that have not ended, which are few beside those that have.
create index runs_open on runs (created_at) where finished_at is null;
