-- Runs and their visits: start, questions, stop and resume.

-- A key that a deleted run has left is free.
-- name: add_idempotency_key
insert into idempotency_keys values (:tenant, :key, :request_hash, :run_id)
on conflict (tenant, key) do update set request_hash = excluded.request_hash, run_id = excluded.run_id
where exists (select 1 from deletions where deletions.run_id = idempotency_keys.run_id)

-- name: get_idempotency_key
select request_hash, run_id from idempotency_keys where tenant = :tenant and key = :key
and not exists (select 1 from deletions where deletions.run_id = idempotency_keys.run_id)

-- A run that was set aside begins only after a repair, so no start joins it.
-- name: find_debounced
select run_id from debounced where key = :key
and not exists (select 1 from damaged_runs where damaged_runs.run_id = debounced.run_id)

-- name: put_debounced
insert into debounced (key, run_id) values (:key, :run_id)
on conflict (key) do update set run_id = excluded.run_id

-- name: join
update runs set trigger = :trigger, starts = :starts {set_data}
where id = :run_id

-- name: postpone
update visits set due_at = :due_at where run_id = :run_id and id = :visit_id

-- A plan that is gone is null here, which the table refuses.
-- name: add
insert into runs (
    id, tenant, playbook, version, plan_hash, status, origin, queue, {data_columns}
    tags, folder, source, parent_run, parent_visit, parent_wait, depth, root, resumed_from, trace,
    created_at, deadline_at, live, stack, trigger, seq
) values (
    :id, :tenant, :playbook, :version, (select hash from plans where hash = :plan_hash), :status,
    :origin, :queue, {data_values}
    :tags, :folder, :source, :parent_run, :parent_visit, :parent_wait, :depth, :root, :resumed_from, :trace,
    :created_at, :deadline_at, :live, :stack, :trigger, 1
) on conflict do nothing

-- name: count_child_run
insert into child_runs as counts (root, started, counted_at) values (:root, 1, :now)
on conflict (root) do update set started = counts.started + 1, counted_at = excluded.counted_at
where counts.started < :limit

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
select * from {runs_with_data} where id = :run_id

-- name: get
select *, {shown_status} as shown from {runs_with_data} where id = :run_id and tenant = :tenant

-- name: summary
select {summary_columns}, runs.error, {most_visits} as visits,
    (select reason from damaged_runs where damaged_runs.run_id = runs.id) as damage
from runs where id = :run_id and tenant = :tenant

-- name: summaries
select {summary_columns}, runs.error, {most_visits} as visits,
    (select reason from damaged_runs where damaged_runs.run_id = runs.id) as damage
from runs where id {in_ids} and tenant = :tenant

-- name: result_text
select {shown_status} as shown, result, errors from runs where id = :run_id and tenant = :tenant

-- name: add_tag
insert into run_tags select tenant, {tag}, created_at, id from runs where id = :run_id on conflict do nothing

-- name: find_tags
select tags from runs where id = :run_id and tenant = :tenant

-- name: set_tags
update runs set tags = :tags where id = :run_id

-- name: find
select {summary_columns} from runs where runs.tenant = :tenant
and (runs.created_at, runs.id) < (:last_created_at, :last_id) -- optional
and (runs.created_at, runs.id) >= (:end_created_at, :end_id) -- optional
{run_filters}
order by runs.created_at desc, runs.id desc limit :limit

-- name: find_oldest
select {summary_columns} from runs where runs.tenant = :tenant
and (runs.created_at, runs.id) > (:last_created_at, :last_id) -- optional
and (runs.created_at, runs.id) <= (:end_created_at, :end_id) -- optional
{run_filters}
order by runs.created_at, runs.id limit :limit

-- `cross join` lets SQLite read the tags first, in their order.
-- name: find_tagged
select {summary_columns} from run_tags cross join runs
where run_tags.tenant = :tenant and run_tags.tag = {tag} and runs.id = run_tags.run_id
and (run_tags.created_at, run_tags.run_id) < (:last_created_at, :last_id) -- optional
and (run_tags.created_at, run_tags.run_id) >= (:end_created_at, :end_id) -- optional
{tagged_run_filters}
order by run_tags.created_at desc, run_tags.run_id desc limit :limit

-- name: find_oldest_tagged
select {summary_columns} from run_tags cross join runs
where run_tags.tenant = :tenant and run_tags.tag = {tag} and runs.id = run_tags.run_id
and (run_tags.created_at, run_tags.run_id) > (:last_created_at, :last_id) -- optional
and (run_tags.created_at, run_tags.run_id) <= (:end_created_at, :end_id) -- optional
{tagged_run_filters}
order by run_tags.created_at, run_tags.run_id limit :limit

-- The last of the next `:limit` runs of a tenant, where a search for text ends.
-- name: find_end
select created_at, id from runs where tenant = :tenant
and (created_at, id) < (:last_created_at, :last_id) -- optional
order by created_at desc, id desc limit 1 offset :limit

-- name: find_oldest_end
select created_at, id from runs where tenant = :tenant
and (created_at, id) > (:last_created_at, :last_id) -- optional
order by created_at, id limit 1 offset :limit

-- Up to `:limit` runs with a tag.
-- name: count_tag
select count(*) as number from (
    select 1 from run_tags where tenant = :tenant and tag = {tag} limit :limit
) counted

-- The newest runs of a filter, counted by interval and status.
-- name: count
select step, shown, count(*) as number from (
    select {interval} as step, {shown_status} as shown from runs where runs.tenant = :tenant
    {run_filters}
    order by runs.created_at desc, runs.id desc limit :limit
) as counted group by step, shown

-- name: count_tagged
select step, shown, count(*) as number from (
    select {interval} as step, {shown_status} as shown from run_tags cross join runs
    where run_tags.tenant = :tenant and run_tags.tag = {tag} and runs.id = run_tags.run_id
    {tagged_run_filters}
    order by run_tags.created_at desc, run_tags.run_id desc limit :limit
) as counted group by step, shown

-- name: find_live
select id from runs where tenant = :tenant and playbook = :playbook and finished_at is null
and queue = :queue and plan_hash {in_ids} order by created_at, id limit :limit

-- The latest visit of each step, and how many visits of the step have started. The visits are counted in an
-- index; rows are read only of visits that have not been claimed in this attempt.
-- name: latest_visits
select id, step, status, number, attempt, due_at, started_at, finished_at, "case", error, progress,
    claimed + case when claimed = entered then 0 else (
        select count(*) from visits as unclaimed where unclaimed.run_id = :run_id and unclaimed.step = name
        and unclaimed.started_at is null and (unclaimed.attempt > 1 or unclaimed.progress is not null)
    ) end as started
from (
    select step as name, max(position) as last, count(*) as entered, count(started_at) as claimed
    from visits where run_id = :run_id group by step
) as steps cross join visits where run_id = :run_id and step = name and position = last

-- The latest visits of several runs. Long journals are left out.
-- name: latest_visits_of_runs
select run_id, id, step, status, number, attempt, due_at, started_at, finished_at, "case", error,
    case when length(progress) <= :max_journal then progress end as progress,
    length(progress) > :max_journal as is_long, length(progress) as journal,
    claimed + case when claimed = entered then 0 else (
        select count(*) from visits as unclaimed where unclaimed.run_id = owner and unclaimed.step = name
        and unclaimed.started_at is null and (unclaimed.attempt > 1 or unclaimed.progress is not null)
    ) end as started
from (
    select run_id as owner, step as name, max(position) as last, count(*) as entered,
        count(started_at) as claimed
    from visits where run_id {in_ids} group by run_id, step
) as steps cross join visits where run_id = owner and step = name and position = last

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
select id, case when {is_paused} then 'paused' else status end as status, seq from runs where id {in_ids}

-- name: stop
update runs set stop = coalesce(nullif(stop, 'paused'), :stop) where id = :run_id returning {run_columns}

-- Error of a run that has a reason to stop.
-- name: explain_stop
update runs set error = :error where id = :run_id

-- Begin of a pause, or its end if `:stop` is null.
-- name: pause
update runs set stop = :stop, seq = seq + 1 where id = :run_id returning {run_columns}

-- name: resume
update runs set status = :status, stop = :stop, resumes = :resumes, seq = seq + 1, finished_at = :finished_at,
    live = :live, failed_branches = :failed_branches, result = null, error = :error, errors = :errors,
    deadline_at = :deadline_at {set_data}
where id = :run_id returning {run_columns}

-- Visits that ended the run, and its finally step.
-- name: delete_end
delete from visits where run_id = :run_id and (step in ('@end', '@deadline') or step = :finally_step)

-- name: mark_skipped
update visits set progress = :progress, due_at = :due_at where run_id = :run_id and id = :visit_id

-- name: find_reopened_visits
select {visit_columns} from visits
where run_id = :run_id and (status = 'parked' or failure in ('open', 'ended'))

-- name: add_bytes
insert into run_bytes as counts (run_id, kind, bytes) select id, :kind, :size from runs where id = :run_id
on conflict (run_id, kind) do update set bytes = counts.bytes + :size returning bytes
