-- Checkpoints of the times of runs.

-- name: find
select runs.seq, runs.created_at, run_times.body from runs
left join run_times on run_times.run_id = runs.id where runs.id = :run_id

-- Visits of steps that have not ended, first those at work.
-- name: find_active
select {visit_columns} from visits where run_id = :run_id and {active_in_run} and {of_a_step}
order by case when status = 'running' then 0 else 1 end, due_at limit :limit

-- name: write
insert into run_times (run_id, body) values (:run_id, :body)
on conflict (run_id) do update set body = excluded.body
