-- Runs that were set aside because they are damaged. Their visits are in a queue that no worker claims from:
-- the name of their queue after `damaged `.

-- name: add
insert into damaged_runs (run_id, reason, found_at) values (:run_id, :reason, :now) on conflict do nothing

-- name: find
select run_id, reason from damaged_runs order by found_at, run_id
limit :limit -- optional

-- name: remove
delete from damaged_runs where run_id = :run_id

-- name: find_some
select run_id from damaged_runs where run_id {in_ids}

-- name: hide_visits
update visits set queue = 'damaged ' || queue
where run_id = :run_id and {active_in_run} and substr(queue, 1, 8) <> 'damaged '

-- Visits that have been due are due now, since claims do not read the times before.
-- name: show_visits
update visits set queue = substr(queue, 9), due_at = case when due_at < :now then :now else due_at end
where run_id = :run_id and substr(queue, 1, 8) = 'damaged '
