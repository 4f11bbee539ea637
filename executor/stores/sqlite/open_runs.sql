-- Sweeps read the runs that have not ended, which are few compared with all runs.
create index runs_open on runs (created_at) where finished_at is null;
