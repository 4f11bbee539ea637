-- Switches of runs to other plans: the records of a run, and what replaces them.

-- name: visits
select {visit_columns}, saved from visits where run_id = :run_id order by position

-- name: arrivals
select step, id, clock, names from arrivals where run_id = :run_id order by step, id

-- name: joins
select step, wave from joins where run_id = :run_id

-- Whether the run was switched before. `:needle` is the type of the event.
-- name: find_event
select seq from history where run_id = :run_id and {has_needle} limit 1

-- name: write_run
update runs set plan_hash = :plan_hash, version = :version, source = :source, status = :status, stop = :stop,
    resumes = :resumes, seq = seq + 1, finished_at = :finished_at, live = :live,
    failed_branches = :failed_branches, result = null, error = :error, errors = :errors,
    deadline_at = :deadline_at, stack = :stack {set_data}
where id = :run_id returning {run_columns}

-- name: write_visit
update visits set step = :step, clock = :clock, names = :names, number = :number, attempt = :attempt,
    {set_claim}, finished_at = :finished_at, "case" = :case, error = :error, failure = :failure
where run_id = :run_id and id = :visit_id

-- The values that were given for a switch.
-- name: write_given
update visits set saved = :saved, finished_at = :finished_at where run_id = :run_id and id = :visit_id

-- name: delete_joins
delete from joins where run_id = :run_id

-- name: delete_arrivals
delete from arrivals where run_id = :run_id

-- name: delete_visit_counts
delete from visit_counts where run_id = :run_id

-- name: add_join
insert into joins (run_id, step, live, wave, clock) values (:run_id, :step, :live, :wave, :clock)

-- name: add_count
insert into visit_counts values (:run_id, :step, :visits)
