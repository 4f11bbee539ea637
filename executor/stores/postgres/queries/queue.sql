-- Single statements for the most frequent operations. Each is a transaction.

-- Claim of a visit. The run is locked only while this statement runs.
-- name: claim_at_once
with locked as (
    select 1 from runs where id = :run_id
    and plan_hash = :plan_hash -- optional
    for update
), claimed as (
    update visits set {set_claim} where {is_unchanged_and_due} and exists (select 1 from locked)
    returning saved
), run as (
    {begin_run} where id = :run_id and exists (select 1 from claimed) returning *
), lost as (
    insert into facts select tenant, playbook, :lost_lease, '', 0, 0 from run where :loses_lease
), recorded as (
    insert into history select id, seq, :events from run where :starts
)
select claimed.saved, run.* from claimed, run

-- Commit of a step of a chain: its outcome, the next visit, and the history.
-- name: commit_step
with locked as (
    {lock_unstopped}
), {committed_step}
{entered_step}

-- The same, and the next visit takes the only slot of the committed one over. Nothing is changed if others
-- wait for it.
-- name: commit_step_passing
with running as (
    {lock_unstopped}
), locked as (
    select 1 from running where exists (select 1 from slots where {slot} and {may_pass_on})
), {committed_step}, passed as (
    update slots set {set_next_owner} where {slot} and exists (select 1 from entered)
)
{entered_step}

-- Commit of a branch that arrives at a join which other branches can still reach, and claim of the next due
-- visit. The transaction must have locked the run. `:events_before` and `:events_after` are the text of the
-- history around step, number and attempt of a visit that is claimed.
-- name: commit_arrival
with done as (
    update visits set {set_finished}
    where {held} and exists (select 1 from runs where id = :run_id and stop is null)
        and exists (select 1 from joins where run_id = :run_id and step = :join and live > 1)
    returning id
), counted as (
    update joins set live = live - 1 where run_id = :run_id and step = :join and exists (select 1 from done)
), arrived as (
    insert into arrivals select :run_id, :join, :arrival_id, :clock, :names from done on conflict do nothing
), run as (
    update runs set seq = seq + 1 where id = :run_id and exists (select 1 from done)
    returning id, seq, tenant, playbook
), measured as (
    insert into facts select tenant, playbook, :kind, :status, :bucket, :seconds from run
), following as (
    {claim_next} and exists (select 1 from done) and :claims_next returning {visit_columns}, saved
), recorded as (
    insert into history select run.id, seq, case when following.id is null then :events::text
        else :events_before::text || to_json(following.step)::text || ',' || number || ',' || attempt
            || :events_after::text end
    from run left join following on true
)
select following.* from done left join following on true

-- name: find_active
select {visit_columns}, tenant, {run_of_due} from visits
where run_id = :run_id and id = :visit_id and {active_in_run}
and not exists (select 1 from damaged_runs where damaged_runs.run_id = visits.run_id)

-- name: read_queue
select queue, plan_hash from runs where id = :run_id
