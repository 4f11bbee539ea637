-- Texts that statements share. A statement writes {NAME} for the text of a name.

-- The visit is not finished: exactly as the partial indexes of SQLite write it. A query for some of these
-- states adds a condition, so that the index is still used.
-- name: active
(status = 'ready' or status = 'running' or status = 'waiting' or status = 'retrying')

-- Key of the turns in which claims take the tenants of a queue.
-- name: turn
((queue || ' ' || tenant) {binary})

-- The visit is one of a step, not one that ends the run or watches its deadline.
-- name: of_a_step
substr(step, 1, 1) <> '@'

-- The claim with this fence is held.
-- name: held
run_id = :run_id and id = :visit_id and fence = :fence and {is_running}

-- Columns of a visit without its outputs.
-- name: visit_columns
run_id, id, step, status, clock, names, number, attempt, claims, fence, worker, due_at, started_at, piece_at,
    finished_at, "case", error, failure, progress

-- The playbook and the plan of the run of a due visit.
-- name: run_of_due
(select playbook from runs where runs.id = run_id) as playbook,
(select plan_hash from runs where runs.id = run_id) as plan_hash

-- Columns that a visit has when a branch enters its step.
-- name: new_visit_columns
run_id, id, step, queue, tenant, status, position, clock, names, number, claims, fence, worker, due_at,
    started_at, piece_at

-- Columns of a run that decide how its branches continue.
-- name: run_columns
id, tenant, playbook, plan_hash, queue, seq, live, stop, resumes, stack

-- A claim that `visit_transition.claim` decided.
-- name: set_claim
status = :status, claims = :claims, fence = :fence, worker = :worker, due_at = :due_at,
    started_at = :started_at, piece_at = :segment_started_at

-- The visit is due, and nothing has changed since it was read.
-- name: is_unchanged_and_due
run_id = :run_id and id = :visit_id and {active_in_run} and due_at <= :now and fence = :fence_before
    and claims = :claims_before and attempt = :attempt and coalesce(started_at, -1) = :started_before

-- The first claim of a run begins it.
-- name: begin_run
update runs set seq = seq + 1, status = 'running', started_at = coalesce(started_at, :now)

-- Claim of the visit that has been due longest in a queue, if it is a visit of this run that has not started.
-- It is `visit_transition.claim` in SQL, because it is part of a commit. A `returning` clause follows.
-- name: claim_next
update visits set status = 'running', claims = claims + 1, fence = fence + 1, worker = :worker,
    due_at = :leased_until, started_at = :now, piece_at = :now
where run_id = :run_id and (run_id, id) = (
    select run_id, id from visits where queue = :queue and {active} and due_at >= :since and due_at <= :now
    order by due_at, position limit 1
) and {is_ready} and started_at is null and progress is null and {of_a_step}

-- Outcome of a finished visit.
-- name: set_finished
status = :status, finished_at = :finished_at, saved = :saved, result = :result, "case" = :case,
    error = :error, failure = :failure, failures = :failures

-- The newest registered version of a playbook.
-- name: newest
number = (
    select max(number) from playbooks p
    where p.tenant = playbooks.tenant and p.name = playbooks.name and p.removed_at is null
)

-- A visit without which the run `runs.id` does not continue.
-- name: active_visit
select 1 from visits
where visits.run_id = runs.id and {active_in_run} and step <> '@deadline'

-- An active visit of a step of the run `runs.id`.
-- name: active_step
select 1 from visits where visits.run_id = runs.id and {active_in_run} and {of_a_step}

-- All active visits of the open run `runs.id` wait. The row of such a run has no status `waiting`.
-- name: all_wait
exists ({active_step}) and not exists ({active_step} and status <> 'waiting' and status <> 'retrying')

-- The run `runs.id` is paused: `Run.is_paused` in SQL.
-- name: is_paused
(runs.finished_at is null and coalesce(runs.stop, '') = 'paused')

-- The run `runs.id` is damaged, and was set aside.
-- name: set_aside
exists (select 1 from damaged_runs where damaged_runs.run_id = runs.id)

-- The run does not stop, but may be paused: `Run.ending` is None.
-- name: not_ending
coalesce(stop, 'paused') = 'paused'

-- The status of the run `runs.id` that readers see: `run_transition.shown_status` in SQL.
-- name: shown_status
case when {is_paused} then 'paused' when runs.finished_at is null and {all_wait} then 'waiting'
    else runs.status end

-- Columns of a run that lists show. None of them is a payload.
-- name: summary_columns
runs.id, runs.tenant, runs.playbook, runs.version, runs.plan_hash, {shown_status} as shown, runs.origin,
    runs.queue, runs.tags, runs.folder, runs.parent_run, runs.parent_visit, runs.parent_wait,
    runs.resumed_from, runs.created_at, runs.started_at, runs.finished_at, runs.stop, runs.resumes,
    runs.trigger, runs.starts

-- How often a step of the run `runs.id` was visited at most. In sequential mode it may be less often.
-- name: most_visits
coalesce(
    (select max(visits) from visit_counts where visit_counts.run_id = runs.id),
    case when runs.stack is not null then runs.seq end, 1
)

-- Conditions of a list of runs.
-- name: run_filters
and runs.created_at >= :since -- optional
and runs.created_at < :until -- optional
{other_run_filters}

-- Conditions of a list of runs with a tag, which is read in the order of the tags.
-- name: tagged_run_filters
and run_tags.created_at >= :since -- optional
and run_tags.created_at < :until -- optional
{other_run_filters}

-- name: other_run_filters
and runs.playbook = :playbook -- optional
and runs.queue = :queue -- optional
and runs.parent_run = :parent -- optional
and substr(runs.id, 1, length(:id_prefix)) = :id_prefix -- optional
and not exists (select 1 from {given_tags} where not {has_given_tag}) -- optional
and (runs.status {not_silent} or {has_text}) -- optional
and runs.status = :status -- optional
and :is_open and not (runs.finished_at is null and {all_wait}) and not {is_paused} -- optional
and :is_waiting and runs.finished_at is null and {all_wait} and not {is_paused} -- optional
and :is_paused and {is_paused} -- optional
and :is_unfinished and runs.finished_at is null -- optional

-- A run without this status may have a headline.
-- name: not_silent
<> 'succeeded'

-- The run has the tag of a row of `{given_tags}`.
-- name: has_given_tag
exists (select 1 from run_tags has where has.run_id = runs.id and has.tag = {given_tag})

-- Key of a slot.
-- name: slot
gate_id = :gate_id and gate_tenant = :gate_tenant and run_id = :run_id and visit_id = :visit_id

-- The next visit of the run may take a slot over: no other owner waits, and it requests as many units. The
-- numbers of the gate stay the same.
-- name: may_pass_on
{is_held} and slots.units = :units and exists (
    select 1 from gates where id = :gate_id and tenant = :gate_tenant and {is_not_hidden} and rate is null
    and waiting = 0 and held <= gates.units and coalesce(:size, gates.units) = gates.units
)

-- An owner has a slot at the gate, or an operator or a rate keeps it. Postgres keeps others until a sweep.
-- name: is_used
(kind is not null or rate is not null or held > 0 or waiting > 0)

-- The slot is held, in a query for one slot. It must not imply the condition of the index of held slots.
-- While statistics say that there are few, Postgres reads all of a gate there.
-- name: is_held
coalesce(held_at is not null, false)

-- No limit of all tenants hides that of the tenant. With `not exists`, Postgres reads all limits that tenants
-- share.
-- name: is_not_hidden
(tenant = '@shared' or (
    select 1 from gates as shared where shared.id = gates.id and shared.tenant = '@shared'
) is null)

-- name: set_next_owner
visit_id = :next_visit_id, flow = :flow, rank = :rank, queued_at = :held_at, held_at = :held_at

-- Order of the slots of a flow that wait at a gate.
-- name: queue_order
rank, queued_at, run_id {binary}, visit_id {binary}

-- The visit waits for one of its slots, or of its run's.
-- name: is_queued
exists (
    select 1 from slots where slots.run_id = visits.run_id and slots.visit_id in (visits.id, '')
    and held_at is null
)

-- The visit has a slot, which it holds or waits for.
-- name: has_slot
exists (select 1 from slots where slots.run_id = visits.run_id and slots.visit_id = visits.id)

-- A token can still answer one of the waits of the visit, or a child run has not ended, or it waits for a
-- slot.
-- name: answerable
(exists (
    select 1 from waits where waits.run_id = visits.run_id and waits.visit_id = visits.id
    and answered_at is null and closed_at is null
) or exists (
    select 1 from runs child where child.parent_run = visits.run_id and child.parent_visit = visits.id
    and child.finished_at is null
) or {is_queued})

-- The run has ended, and no branch was stopped.
-- name: complete
status in ('succeeded', 'completed_with_errors')

-- A worker has claimed the visit, in this attempt or before.
-- name: has_started
(started_at is not null or finished_at is not null or progress is not null)

-- The place from which on the visit of the step `:step` with a number may be: `:before` visits have smaller
-- ones. Numbers grow with the place, but visits of an earlier run come first, with numbers of their own.
-- name: is_numbered_from
position >= coalesce((
    select numbered.position from visits as numbered
    where numbered.run_id = :run_id and numbered.step = :step
    order by numbered.position limit 1 offset :before
), 0)

-- The time at which a visit was created: the end of the visit in the transaction that `position` names.
-- name: entered_at
(select max({event_time}) from history cross join {event_rows}
    where history.run_id = visits.run_id and history.seq = (visits.position >> 12)
    and {event_type} in ('step.completed', 'step.failed'))

-- The cached result of the row can still be used.
-- name: is_current
(kept.value is not null and kept.expires_at > :now)

-- The length of the parameter `:key`, a text.
-- name: key_length
length(cast(:key as text))

-- The number of bytes of the journal of a visit. Databases know it without a read of the journal.
-- name: journal_length
octet_length(visits.progress)

-- The open waits of a tenant: `open_waits.may_be_listed` in SQL. Outer joins, and conditions that a row of
-- nulls may meet, let the database begin with the index of waits.
-- name: from_open_waits
from waits left join visits on visits.run_id = waits.run_id and visits.id = waits.visit_id
left join runs on runs.id = waits.run_id
where waits.tenant = :tenant and waits.answered_at is null and waits.closed_at is null
and coalesce(runs.id, '') <> '' and runs.finished_at is null and coalesce({journal_length}, 0) > 0
and (coalesce(visits.status, '') not in ('parked', 'succeeded', 'failed')
    or coalesce(visits.status, '') = 'parked' and {is_paused})

-- name: by_place
order by waits.rank, waits.run_id, waits.visit_id, waits.id limit :limit
