-- Locks, notifications and due messages of transactions.

-- name: lock_run
select 1 from runs where id = :run_id for update

-- name: lock_name
select pg_advisory_xact_lock(hashtextextended(:name, 0))

-- Whether the server lets this user write: it may be a replica, or its administrator may have forbidden it,
-- also for this user alone.
-- name: is_writable
select current_setting('transaction_read_only') = 'off' and has_table_privilege('runs', 'insert')
    and has_table_privilege('visits', 'insert, update') as writable, exists (select 1 from plans) as has_plans

-- Time of the server, also within a transaction.
-- name: read_time
select extract(epoch from clock_timestamp())::float8 as seconds

-- name: notify
select pg_notify(:channel, :message)

-- Visits that the transaction itself has made due, now or later: `xmin` is the transaction that wrote a row.
-- A claimed visit is not among them, unless the claim was released.
-- name: made_due
select run_id, id, step, due_at, tenant from visits
where run_id = any(:run_ids) and queue = :queue and {active_in_run} and (
    status <> 'running' or due_at <= extract(epoch from clock_timestamp())
)
and due_at < :never and xmin = pg_current_xact_id()::xid

-- name: find_overdue
select run_id, id, step, due_at, tenant from visits
where queue = :queue and {active} and due_at < :before order by due_at, position limit :limit
