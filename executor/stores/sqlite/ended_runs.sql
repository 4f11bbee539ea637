-- Runs that have been kept for long enough are looked for by when they ended, and deleted with all that belongs to them.
create index runs_ended on runs (finished_at) where finished_at is not null;
create index tokens_of_runs on tokens (run_id);
create index idempotency_keys_of_runs on idempotency_keys (run_id);
