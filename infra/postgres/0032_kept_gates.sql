-- Most commits of steps with limits change `held`, and those with rates `idle_at`. While no index has these
-- columns, such a change writes no index (a HOT update). A gate that is not used is kept until a sweep.
drop index gates_stalled;
create index gates_stalled on gates (id, tenant) where waiting > 0;
drop index gates_idle;
alter table gates set (fillfactor = 70);
