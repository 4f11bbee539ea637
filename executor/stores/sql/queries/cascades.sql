-- Commands that child runs have not followed yet. A command to a run has no `visit_id`, or concerns the child
-- runs of one visit. Those after `after_created_at` and `after_id` are left, or all if these are null.

-- name: add
insert into cascades (run_id, visit_id, command, except_visit, after_created_at, after_id, caller)
values (:run_id, :visit_id, :command, :except_visit, :after_created_at, :after_id, :caller)

-- A command to all child runs replaces pauses of some.
-- name: forget_of_run
delete from cascades where run_id = :run_id and (visit_id = '' or command <> 'cancel')

-- name: forget
delete from cascades where run_id = :run_id and visit_id = :visit_id

-- name: read
select * from cascades where run_id = :run_id and visit_id = :visit_id

-- name: find_of_run
select run_id, visit_id from cascades where run_id = :run_id limit 1

-- Of a command to a run, and of all runs below it. A command to a run above it may have begun them.
-- name: find_of_tree
with recursive above (run_id, visit_id, id) as (
    select run_id, visit_id, run_id from cascades
    union
    select above.run_id, above.visit_id, runs.parent_run from above join runs on runs.id = above.id
    where above.id <> :run_id and runs.parent_run is not null
)
select run_id, visit_id from above where id = :run_id limit 1

-- name: find_first
select run_id, visit_id from cascades order by run_id, visit_id limit 1

-- The next child runs that are to follow. A damaged one is not cancelled. One that was paused by a request of
-- its own stays paused.
-- name: find_children
select id, created_at from runs where parent_run = :run_id and finished_at is null
and parent_visit = :visit_id -- optional
and parent_visit <> :except_visit -- optional
and (created_at, id) < (:created_at, :id) -- optional
and :is_pause -- optional
and :is_cancel and {not_ending} and not {set_aside} -- optional
and :is_unpause and not exists (select 1 from own_pauses where own_pauses.run_id = runs.id) -- optional
order by created_at desc, id desc limit :limit
