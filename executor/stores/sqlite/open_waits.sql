-- The list of the open waits of a tenant. `tenant` is null for a wait that is not in it: one without a token,
-- or of a run that has ended. Earlier waits come last, since their expiry is not in this table.
alter table waits add column tenant text;
alter table waits add column rank real;
create index waits_open on waits (tenant, rank, run_id, visit_id, id)
    where tenant is not null and answered_at is null and closed_at is null;
update waits set rank = 253402300799.0, tenant = (
    select runs.tenant from runs where runs.id = waits.run_id and runs.finished_at is null
) where exists (
    select 1 from tokens
    where tokens.run_id = waits.run_id and tokens.visit_id = waits.visit_id and tokens.wait_id = waits.id
);
