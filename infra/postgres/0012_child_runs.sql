-- Child runs, counted by the root of their tree: the run that no run has started.
alter table runs add column root text;
create table child_runs (
    root text primary key,
    started integer not null,
    counted_at double precision not null
);
create index child_runs_counted on child_runs (counted_at);
