-- Data of runs has a table of its own: input, environment and variables. SQLite writes a row as a whole, so a
-- step of a run with an input of a megabyte wrote a megabyte. Payloads are the last columns of a run again,
-- because SQLite reads a row up to the last column that a query needs.
create table run_data (
    run_id text primary key,
    environment text not null,
    variables text not null,
    input text not null
) without rowid;
insert into run_data select id, environment, variables, input from runs;

create table runs_without_data (
    id text primary key,
    tenant text not null,
    playbook text not null,
    version text,
    plan_hash text not null,
    status text not null,
    origin text not null,
    queue text not null,
    tags text not null,
    folder text,
    source text,
    parent_run text,
    parent_visit text,
    parent_wait text,
    depth integer not null default 0,
    root text,
    resumed_from text,
    trace text,
    created_at real not null,
    started_at real,
    finished_at real,
    deadline_at real,
    live integer not null,
    failed_branches integer not null default 0,
    stop text,
    resumes integer not null default 0,
    seq integer not null default 0,
    trigger text,
    starts integer not null default 1,
    error text,
    stack text,
    errors text not null default '[]',
    result text
);
insert into runs_without_data select
    id, tenant, playbook, version, plan_hash, status, origin, queue, tags, folder, source, parent_run,
    parent_visit, parent_wait, depth, root, resumed_from, trace, created_at, started_at, finished_at,
    deadline_at, live, failed_branches, stop, resumes, seq, trigger, starts, error, stack, errors, result
from runs;
drop table runs;
alter table runs_without_data rename to runs;
create index runs_newest on runs (tenant, created_at desc, id desc);
create index runs_children on runs (parent_run, created_at desc, id desc) where parent_run is not null;
create index runs_ended on runs (finished_at) where finished_at is not null;
create index runs_of_playbook on runs (tenant, playbook, created_at desc, id desc);
create index runs_by_status on runs (tenant, status, created_at desc, id desc);
create index runs_live on runs (tenant, created_at desc, id desc) where finished_at is null;
create index runs_live_of_playbook on runs (tenant, playbook, created_at, id) where finished_at is null;
create index runs_of_plan on runs (plan_hash);

-- The rows of many runs are deleted at once.
create trigger run_data_of_deleted_runs after delete on runs begin
    delete from run_data where run_id = old.id;
end;
