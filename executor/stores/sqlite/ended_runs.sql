-- Sweeps find runs whose retention period is over by the time of their end, and delete all of their rows.
create index runs_ended on runs (finished_at) where finished_at is not null;
create index tokens_of_runs on tokens (run_id);
create index idempotency_keys_of_runs on idempotency_keys (run_id);
