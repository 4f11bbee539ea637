-- Runs that were deleted, and that have left rows. Each dialect has statements that delete the rows.

-- name: add
insert into deletions (run_id, tenant) values (:run_id, :tenant) on conflict do nothing

-- name: find
select tenant from deletions where run_id = :run_id

-- name: find_some
select run_id from deletions order by run_id limit :limit

-- Of some runs, those that have left rows. They are locked, so that no other process deletes what a later run
-- of the same id writes.
-- name: lock
select run_id from deletions where run_id {in_ids} order by run_id {for_update}

-- name: remove
delete from deletions where run_id {in_ids}

-- A worker may still have a claim of a run that was set aside.
-- name: end_claims
update visits set status = 'parked', fence = fence + 1
where run_id = :run_id and {active_in_run} and {is_running}
