-- Commits of steps with limits change `held`, and those with rates `idle_at`. No index has these columns, so
-- such a change writes no index.
drop index gates_stalled;
create index gates_stalled on gates (id, tenant) where waiting > 0;
drop index gates_idle;
