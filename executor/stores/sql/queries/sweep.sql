-- Repairs of runs that no worker would continue, and decisions to delete runs.

-- name: find_endless_leases
select distinct run_id from visits where {active} and status = 'running' and due_at > :longest
and not exists (select 1 from damaged_runs where damaged_runs.run_id = visits.run_id)
and run_id = :run_id -- optional
limit :limit

-- name: find_missing_deadlines
select id as run_id from runs where finished_at is null and {not_ending} and deadline_at is not null
and not exists (select 1 from visits where run_id = runs.id and step = '@deadline') and not {set_aside}
and id = :run_id -- optional
limit :limit

-- name: next_seq
update runs set seq = seq + 1 where id = :run_id returning {run_columns}

-- name: unpark
update visits set status = 'ready', due_at = :now
where run_id = :run_id and status = 'parked'
and clock = :clock -- optional

-- name: find_joins
select distinct step from arrivals where run_id = :run_id

-- name: fail_run
update runs set stop = 'failed', error = coalesce(error, :error) where id = :run_id returning {run_columns}

-- name: wake
update visits set due_at = :now
where run_id = :run_id and status = 'waiting' and due_at >= :never and not {answerable}

-- name: end_leases
update visits set due_at = :now
where run_id = :run_id and {active_in_run} and {is_running} and due_at > :longest

-- name: has_entered
select 1 from visits where run_id = :run_id and step = :step

-- name: count_open_runs
select count(*) as open from runs where finished_at is null

-- Whether anything is old enough to be deleted.
-- name: find_old
select 1 where exists (select 1 from runs where finished_at < :before)
    or exists (select 1 from child_runs where counted_at < :before)
    or exists (select 1 from firings where fired_at < :before)

-- A run is kept while its parent is kept, which may ask for it, and while it has children.
-- name: delete_old_runs
delete from runs where id in (
    select id from runs as old where finished_at < :before
    and not exists (select 1 from runs as child where child.parent_run = old.id)
    and not exists (
        select 1 from runs as parent
        where parent.id = old.parent_run and coalesce(parent.finished_at >= :before, true)
    )
    order by finished_at limit :limit
) and finished_at < :before returning id, tenant

-- A run, and all runs that it or one of those has started: the leaves first, the run last. The column
-- `parent` is that of the run, if it exists.
-- name: find_tree
with recursive tree (id) as (
    select id from runs where id = :run_id and tenant = :tenant
    union
    select child.id from tree join runs as child on child.parent_run = tree.id
)
select runs.id, (runs.finished_at is not null or {set_aside}) as ended, {set_aside} as is_damaged,
    (select parent.id from runs as parent where parent.id = runs.parent_run) as parent
from tree join runs on runs.id = tree.id order by runs.depth desc, runs.id = :run_id

-- name: delete_ended
delete from runs where id {in_ids} and (finished_at is not null or {set_aside}) returning id, tenant

-- name: has_ended
select 1 from runs where id = :run_id and (finished_at is not null or {set_aside})

-- name: find_child
select 1 from runs where parent_run {in_ids} limit 1

-- The count of a root is forgotten when it has started no child run for the time of retention.
-- name: delete_child_run_counts
delete from child_runs where root in (select root from child_runs where counted_at < :before limit :limit)
and counted_at < :before

-- name: delete_tags
delete from run_tags where run_id {in_ids}
