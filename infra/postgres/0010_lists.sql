-- Lists of runs. Each filter of a list has an index in the order of the list, and tags have a table.
create index runs_of_playbook on runs (tenant, playbook, created_at desc, id desc);
create index runs_by_status on runs (tenant, status, created_at desc, id desc);
drop index runs_open;
drop index runs_children;
create index runs_children on runs (parent_run, created_at desc, id desc) where parent_run is not null;
create index runs_live on runs (tenant, created_at desc, id desc) where finished_at is null;
create index runs_live_of_playbook on runs (tenant, playbook, created_at, id) where finished_at is null;
-- Tags are JSON texts, which can also hold half a surrogate pair.
create table run_tags (
    tenant text not null,
    tag text not null,
    created_at double precision not null,
    run_id text not null,
    primary key (tenant, tag, created_at, run_id)
);
insert into run_tags
    select tenant, tag::text, created_at, id from runs, json_array_elements(tags::json) as tag
    on conflict do nothing;
create index run_tags_of_runs on run_tags (run_id);
-- The status of a run counts the visits of each step, and finds the latest, without their rows.
create index visits_of_steps on visits (run_id, step, position, started_at);
