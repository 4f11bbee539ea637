-- Rows of deleted runs, `:limit` at most. They are found by the run, and deleted by their place. With a join
-- by their keys, the planner reads the whole table if most of its rows are of one run.

-- A later start may have taken the key over.
-- name: delete_idempotency_keys
delete from idempotency_keys where ctid = any(array(
    select ctid from idempotency_keys where run_id {in_ids} limit :limit
)) and run_id {in_ids}

-- name: delete_debounced
delete from debounced where ctid = any(array(
    select ctid from debounced where run_id {in_ids} limit :limit
)) and run_id {in_ids}

-- name: delete_tokens
delete from tokens where ctid = any(array(
    select ctid from tokens where run_id {in_ids} limit :limit
)) and run_id {in_ids}

-- name: delete_waits
delete from waits where ctid = any(array(
    select ctid from waits where run_id {in_ids} limit :limit
)) and run_id {in_ids}

-- name: delete_tags
delete from run_tags where ctid = any(array(
    select ctid from run_tags where run_id {in_ids} limit :limit
)) and run_id {in_ids}

-- name: delete_visits
delete from visits where ctid = any(array(
    select ctid from visits where run_id {in_ids} limit :limit
)) and run_id {in_ids}

-- name: delete_parts
delete from parts where ctid = any(array(
    select ctid from parts where run_id {in_ids} limit :limit
)) and run_id {in_ids}

-- name: delete_history
delete from history where ctid = any(array(
    select ctid from history where run_id {in_ids} limit :limit
)) and run_id {in_ids}

-- name: delete_joins
delete from joins where ctid = any(array(
    select ctid from joins where run_id {in_ids} limit :limit
)) and run_id {in_ids}

-- name: delete_arrivals
delete from arrivals where ctid = any(array(
    select ctid from arrivals where run_id {in_ids} limit :limit
)) and run_id {in_ids}

-- name: delete_visit_counts
delete from visit_counts where ctid = any(array(
    select ctid from visit_counts where run_id {in_ids} limit :limit
)) and run_id {in_ids}

-- name: delete_bytes
delete from run_bytes where ctid = any(array(
    select ctid from run_bytes where run_id {in_ids} limit :limit
)) and run_id {in_ids}

-- name: delete_times
delete from run_times where ctid = any(array(
    select ctid from run_times where run_id {in_ids} limit :limit
)) and run_id {in_ids}

-- name: delete_damage
delete from damaged_runs where ctid = any(array(
    select ctid from damaged_runs where run_id {in_ids} limit :limit
)) and run_id {in_ids}

-- name: delete_own_pauses
delete from own_pauses where ctid = any(array(
    select ctid from own_pauses where run_id {in_ids} limit :limit
)) and run_id {in_ids}

-- name: delete_child_run_counts
delete from child_runs where ctid = any(array(
    select ctid from child_runs where root {in_ids} limit :limit
)) and root {in_ids}

-- name: delete_cascades
delete from cascades where ctid = any(array(
    select ctid from cascades where run_id {in_ids} limit :limit
)) and run_id {in_ids}
