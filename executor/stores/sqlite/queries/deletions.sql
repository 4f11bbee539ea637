-- Rows of deleted runs, `:limit` at most. They are found by the run, and deleted by their keys.

-- A later start may have taken the key over.
-- name: delete_idempotency_keys
delete from idempotency_keys where (tenant, key) in (
    select tenant, key from idempotency_keys where run_id {in_ids} limit :limit
) and coalesce(run_id, '') {in_ids}

-- name: delete_debounced
delete from debounced where key in (
    select key from debounced where run_id {in_ids} limit :limit
) and coalesce(run_id, '') {in_ids}

-- name: delete_tokens
delete from tokens where hash in (
    select hash from tokens where run_id {in_ids} limit :limit
) and coalesce(run_id, '') {in_ids}

-- name: delete_waits
delete from waits where (run_id, visit_id, id) in (
    select run_id, visit_id, id from waits where run_id {in_ids} limit :limit
)

-- name: delete_tags
delete from run_tags where (tenant, tag, created_at, run_id) in (
    select tenant, tag, created_at, run_id from run_tags where run_id {in_ids} limit :limit
)

-- name: delete_visits
delete from visits where (run_id, id) in (
    select run_id, id from visits where run_id {in_ids} limit :limit
)

-- name: delete_parts
delete from parts where (run_id, visit_id, loop, position) in (
    select run_id, visit_id, loop, position from parts where run_id {in_ids} limit :limit
)

-- name: delete_history
delete from history where (run_id, seq) in (
    select run_id, seq from history where run_id {in_ids} limit :limit
)

-- name: delete_joins
delete from joins where (run_id, step) in (
    select run_id, step from joins where run_id {in_ids} limit :limit
)

-- name: delete_arrivals
delete from arrivals where (run_id, step, id) in (
    select run_id, step, id from arrivals where run_id {in_ids} limit :limit
)

-- name: delete_visit_counts
delete from visit_counts where (run_id, step) in (
    select run_id, step from visit_counts where run_id {in_ids} limit :limit
)

-- name: delete_bytes
delete from run_bytes where (run_id, kind) in (
    select run_id, kind from run_bytes where run_id {in_ids} limit :limit
)

-- name: delete_times
delete from run_times where run_id in (
    select run_id from run_times where run_id {in_ids} limit :limit
)

-- name: delete_damage
delete from damaged_runs where run_id in (
    select run_id from damaged_runs where run_id {in_ids} limit :limit
)

-- name: delete_own_pauses
delete from own_pauses where run_id in (
    select run_id from own_pauses where run_id {in_ids} limit :limit
)

-- name: delete_child_run_counts
delete from child_runs where root in (
    select root from child_runs where root {in_ids} limit :limit
)

-- name: delete_cascades
delete from cascades where (run_id, visit_id) in (
    select run_id, visit_id from cascades where run_id {in_ids} limit :limit
)
