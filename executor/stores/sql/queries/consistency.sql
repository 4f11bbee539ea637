-- Queries that find nothing in a sound store. Their columns fill the message of the check. The sweep asks the
-- first two also about one run.

-- Unfinished runs without an active visit. A paused run needs none, nor one whose child runs are cancelled.
-- name: stuck
select id as run_id from runs where finished_at is null and not exists ({active_visit}) and not {is_paused}
and not {set_aside} and not exists (select 1 from cascades where cascades.run_id = runs.id)
and id = :run_id -- optional
limit :limit

-- Unfinished runs whose active visits all wait for an answer that cannot arrive.
-- name: waits_in_vain
select id as run_id from runs where finished_at is null and exists ({active_visit})
and not exists ({active_visit} and (due_at < :never or (status = 'waiting' and {answerable})))
and not {set_aside}
and id = :run_id -- optional
limit :limit

-- name: continues_after_its_end
select run_id, step from visits
where run_id in (select id from runs where finished_at is not null) and {active} limit :limit

-- name: counters_of_joins
select run_id, step, live from joins
where live < 0 or (live > 0 and run_id in (select id from runs where {complete})) limit :limit

-- name: counters_of_runs
select id as run_id, live from runs where live < 0 or (live > 0 and {complete}) limit :limit

-- name: arrivals
select distinct run_id, step from arrivals where run_id in (select id from runs where {complete}) limit :limit

-- name: ends_of_runs
select id as run_id, status from runs
where (finished_at is null) <> (status in ('queued', 'running')) limit :limit

-- name: ends_of_visits
select run_id, step, status from visits where (finished_at is null) = (status in ('succeeded', 'failed'))
limit :limit

-- Rows of runs that do not exist. A sweep completes interrupted deletions.
-- name: visits_without_run
select distinct run_id, 'visits' as "table" from visits
where not exists (select 1 from runs where runs.id = visits.run_id)
and not exists (select 1 from deletions where deletions.run_id = visits.run_id) limit :limit

-- name: joins_without_run
select distinct run_id, 'joins' as "table" from joins
where not exists (select 1 from runs where runs.id = joins.run_id)
and not exists (select 1 from deletions where deletions.run_id = joins.run_id) limit :limit

-- name: arrivals_without_run
select distinct run_id, 'arrivals' as "table" from arrivals
where not exists (select 1 from runs where runs.id = arrivals.run_id)
and not exists (select 1 from deletions where deletions.run_id = arrivals.run_id) limit :limit

-- name: visit_counts_without_run
select distinct run_id, 'visit_counts' as "table" from visit_counts
where not exists (select 1 from runs where runs.id = visit_counts.run_id)
and not exists (select 1 from deletions where deletions.run_id = visit_counts.run_id) limit :limit

-- name: waits_without_run
select distinct run_id, 'waits' as "table" from waits
where not exists (select 1 from runs where runs.id = waits.run_id)
and not exists (select 1 from deletions where deletions.run_id = waits.run_id) limit :limit

-- name: tokens_without_run
select distinct run_id, 'tokens' as "table" from tokens
where not exists (select 1 from runs where runs.id = tokens.run_id)
and not exists (select 1 from deletions where deletions.run_id = tokens.run_id) limit :limit

-- name: parts_without_run
select distinct run_id, 'parts' as "table" from parts
where not exists (select 1 from runs where runs.id = parts.run_id)
and not exists (select 1 from deletions where deletions.run_id = parts.run_id) limit :limit

-- name: history_without_run
select distinct run_id, 'history' as "table" from history
where not exists (select 1 from runs where runs.id = history.run_id)
and not exists (select 1 from deletions where deletions.run_id = history.run_id) limit :limit

-- name: idempotency_keys_without_run
select distinct run_id, 'idempotency_keys' as "table" from idempotency_keys
where not exists (select 1 from runs where runs.id = idempotency_keys.run_id)
and not exists (select 1 from deletions where deletions.run_id = idempotency_keys.run_id) limit :limit

-- name: debounced_without_run
select distinct run_id, 'debounced' as "table" from debounced
where not exists (select 1 from runs where runs.id = debounced.run_id)
and not exists (select 1 from deletions where deletions.run_id = debounced.run_id) limit :limit

-- name: tags_without_run
select distinct run_id, 'run_tags' as "table" from run_tags
where not exists (select 1 from runs where runs.id = run_tags.run_id)
and not exists (select 1 from deletions where deletions.run_id = run_tags.run_id) limit :limit

-- name: slots_without_run
select distinct run_id, 'slots' as "table" from slots
where not exists (select 1 from runs where runs.id = slots.run_id)
and not exists (select 1 from deletions where deletions.run_id = slots.run_id) limit :limit

-- name: counters_of_gates
select * from (
    select name as "limit", held, waiting, (
        select coalesce(sum(units), 0) from slots
        where gate_id = gates.id and gate_tenant = tenant and held_at is not null
    ) as units, (
        select count(*) from slots where gate_id = gates.id and gate_tenant = tenant and held_at is null
    ) as queued
    from gates
) as counted
where held <> units or waiting <> queued limit :limit

-- Gates that do not count their slots are found above.
-- name: counters_of_flows
select name as "limit", summed.flow, summed.waiting, summed.queued from (
    select gate_id, gate_tenant, flow, sum(waiting) as waiting, sum(queued) as queued from (
        select gate_id, gate_tenant, flow, waiting, 0 as queued from flows
        union all
        select gate_id, gate_tenant, flow, 0, 1 from slots where held_at is null
    ) as counted
    group by gate_id, gate_tenant, flow
) as summed
join gates on gates.id = summed.gate_id and gates.tenant = summed.gate_tenant
where summed.waiting <> summed.queued and gates.waiting = (
    select count(*) from slots where gate_id = gates.id and gate_tenant = tenant and held_at is null
) limit :limit

-- name: slots_of_ended_runs
select run_id, name as "limit" from slots join gates on gate_id = gates.id and gate_tenant = tenant
where exists (select 1 from runs where runs.id = slots.run_id and finished_at is not null) limit :limit

-- name: slots_of_visits
select run_id, name as "limit" from slots join gates on gate_id = gates.id and gate_tenant = tenant
where visit_id <> '' and exists (select 1 from runs where runs.id = slots.run_id and finished_at is null)
and not exists (
    select 1 from visits where visits.run_id = slots.run_id and visits.id = slots.visit_id and {active_in_run}
) limit :limit

-- name: unknown_gates
select run_id, gate_id as gate from slots
where exists (select 1 from runs where runs.id = slots.run_id)
and not exists (select 1 from gates where gates.id = gate_id and tenant = gate_tenant) limit :limit

-- name: unknown_parents
select id as run_id, parent_run from runs where parent_run is not null
and not exists (select 1 from runs parent where parent.id = runs.parent_run) limit :limit

-- name: unknown_plans_of_runs
select id as run_id, playbook from runs
where not exists (select 1 from plans where hash = plan_hash) limit :limit

-- name: lost_triggers
select name, playbook, version from triggers where not exists (
    select 1 from playbooks where playbooks.tenant = triggers.tenant and playbooks.name = triggers.playbook
    and playbooks.version = triggers.version and removed_at is null and number = coalesce(
        (
            select number from aliases a
            where a.tenant = triggers.tenant and a.playbook = triggers.playbook and alias = 'live'
        ),
        (
            select max(number) from playbooks p
            where p.tenant = triggers.tenant and p.name = triggers.playbook and p.removed_at is null
        )
    )
) limit :limit

-- name: unknown_plans_of_versions
select name, version from playbooks where removed_at is null
and not exists (select 1 from plans where hash = plan_hash) limit :limit
