-- Lists of runs. Payloads are the last columns of a run, because SQLite reads a row up to the last column
-- that a query needs. Each filter of a list has an index in the order of the list, and tags have a table.
create table runs_for_lists (
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
    error text,
    stack text,
    environment text not null,
    variables text not null,
    input text not null,
    errors text not null default '[]',
    result text
);
insert into runs_for_lists (
    id, tenant, playbook, version, plan_hash, status, origin, queue, tags, folder, source, parent_run,
    parent_visit, parent_wait, depth, resumed_from, trace, created_at, started_at, finished_at, deadline_at,
    live, failed_branches, stop, resumes, seq, error, stack, environment, variables, input, errors, result
) select
    id, tenant, playbook, version, plan_hash, status, origin, queue, tags, folder, source, parent_run,
    parent_visit, parent_wait, depth, resumed_from, trace, created_at, started_at, finished_at, deadline_at,
    live, failed_branches, stop, resumes, seq, error, stack, environment, variables, input, errors, result
from runs;
drop table runs;
alter table runs_for_lists rename to runs;
create index runs_newest on runs (tenant, created_at desc, id desc);
create index runs_children on runs (parent_run, created_at desc, id desc) where parent_run is not null;
create index runs_ended on runs (finished_at) where finished_at is not null;
create index runs_of_playbook on runs (tenant, playbook, created_at desc, id desc);
create index runs_by_status on runs (tenant, status, created_at desc, id desc);
create index runs_live on runs (tenant, created_at desc, id desc) where finished_at is null;
create index runs_live_of_playbook on runs (tenant, playbook, created_at, id) where finished_at is null;
create table run_tags (
    tenant text not null,
    tag text not null,
    created_at real not null,
    run_id text not null,
    primary key (tenant, tag, created_at, run_id)
) without rowid;
insert or ignore into run_tags
    select runs.tenant, json_each.value, runs.created_at, runs.id from runs, json_each(runs.tags);
create index run_tags_of_runs on run_tags (run_id);
-- The status of a run counts the visits of each step, and finds the latest, without their rows.
create index visits_of_steps on visits (run_id, step, position, started_at);
