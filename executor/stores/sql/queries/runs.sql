-- Runs and their visits: start, questions, stop and resume.

-- name: add_idempotency_key
insert into idempotency_keys values (:tenant, :key, :request_hash, :run_id) on conflict do nothing

-- name: get_idempotency_key
select request_hash, run_id from idempotency_keys where tenant = :tenant and key = :key

-- name: add
insert into runs (
    id, tenant, playbook, version, plan_hash, status, origin, queue, input, environment, variables,
    tags, folder, source, parent_run, parent_visit, parent_wait, depth, resumed_from, trace, created_at,
    deadline_at, live, stack, seq
) values (
    :id, :tenant, :playbook, :version, :plan_hash, :status, :origin, :queue, :input, :environment,
    :variables, :tags, :folder, :source, :parent_run, :parent_visit, :parent_wait, :depth,
    :resumed_from, :trace, :created_at, :deadline_at, :live, :stack, 1
) on conflict do nothing

-- A visit that another run has finished.
-- name: add_finished_visit
insert into visits (
    run_id, id, step, queue, tenant, status, position, clock, names, number, attempt, due_at, started_at,
    finished_at, saved, result, "case", error, failure, failures
) values (
    :run_id, :visit_id, :step, :queue, (select tenant from runs where id = :run_id), :status, :position,
    :clock, :names, :number, :attempt, :due_at, :started_at, :finished_at, :saved, :result,
    :case, :error, :failure, :failures
)

-- name: read
select * from runs where id = :run_id

-- name: get
select * from runs where id = :run_id and tenant = :tenant

-- A run that waits has no status `waiting` in its row.
-- name: find
select * from runs where tenant = :tenant
and playbook = :playbook -- optional
and created_at >= :since -- optional
and queue = :queue -- optional
and parent_run = :parent -- optional
and (status = :status or (:status = 'waiting' and status in ('queued', 'running'))) -- optional
and {has_tag} -- optional
and (created_at, id) < (:last_created_at, :last_id) -- optional
order by created_at desc, id desc limit :limit

-- name: count_waiting
select count(*) as active,
    count(case when status in ('retrying', 'waiting') then 1 end) as waiting
from visits where run_id = :run_id and {active} and {of_a_step}

-- name: visits
select {visit_columns} from visits where run_id = :run_id order by position

-- name: visits_with_outputs
select {visit_columns}, saved, result, failures from visits where run_id = :run_id
and step not in ('@end', '@deadline') order by clock, id

-- name: some_visits_with_outputs
select {visit_columns}, saved, result, failures from visits where run_id = :run_id and id {in_ids}
order by clock, id

-- name: batch_results
select body from parts where run_id = :run_id and visit_id = :visit_id and loop = :loop order by position

-- name: find_cancelled
select id from runs where stop = 'cancelled' and id {in_ids}

-- name: positions
select id, status, seq from runs where id {in_ids}

-- name: stop
update runs set stop = coalesce(stop, :stop) where id = :run_id returning {run_columns}

-- name: resume
update runs set status = :status, stop = :stop, resumes = :resumes, seq = seq + 1, finished_at = :finished_at,
    live = :live, failed_branches = :failed_branches, result = null, error = :error, errors = :errors,
    deadline_at = :deadline_at, input = :input, environment = :environment
where id = :run_id returning {run_columns}

-- Visits that ended the run, and its finally step.
-- name: delete_end
delete from visits where run_id = :run_id and (step in ('@end', '@deadline') or step = :finally_step)

-- name: find_reopened_visits
select {visit_columns} from visits
where run_id = :run_id and (status = 'parked' or failure in ('open', 'ended'))
