-- Results of work that later runs of a tenant use again. `holder` is the visit that computes a result: run,
-- visit, fence and position as JSON. Without a result, `value` is null.
create table cached_results (
    tenant text not null,
    digest text not null,
    playbook text not null,
    step text not null,
    label text not null,
    holder text,
    run_id text not null,
    created_at real not null,
    expires_at real not null,
    size integer not null,
    value text,
    primary key (tenant, digest)
) without rowid;
create index cached_results_created on cached_results (tenant, created_at desc, digest);
create index cached_results_expires on cached_results (expires_at);
