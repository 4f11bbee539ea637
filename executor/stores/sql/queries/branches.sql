-- Branches of a run: visits that they enter, joins at which they arrive, and the end of the run.

-- name: insert_visit
insert into visits ({new_visit_columns})
values (
    :run_id, :visit_id, :step, :queue, (select tenant from runs where id = :run_id), :status, :position,
    :clock, :names, :number, :claims, :fence, :worker, :due_at, :started_at, :segment_started_at
) on conflict do nothing

-- name: count_visit
insert into visit_counts values (:run_id, :step, 1)
on conflict (run_id, step) do update set visits = visit_counts.visits + 1 returning visits

-- name: add_join
insert into joins (run_id, step, live, wave, clock) values (:run_id, :step, :live, :wave, :clock)

-- name: add_count
insert into visit_counts values (:run_id, :step, :visits)

-- name: visit_exists
select 1 from visits where run_id = :run_id and id = :visit_id

-- name: get_finished_at
select finished_at from visits where run_id = :run_id and id = :visit_id

-- name: change_live
update runs set live = live + :change where id = :run_id

-- name: read_live
select live from runs where id = :run_id

-- name: count_live
insert into joins (run_id, step, live, clock) values (:run_id, :step, :change, :clock)
on conflict (run_id, step) do update set
    live = joins.live + excluded.live,
    clock = case when excluded.clock > joins.clock then excluded.clock else joins.clock end

-- name: add_arrival
insert into arrivals values (:run_id, :step, :id, :clock, :names) on conflict do nothing

-- name: read_join
select * from joins where run_id = :run_id and step = :step

-- name: take_arrivals
delete from arrivals where run_id = :run_id and step = :step returning id, clock, names

-- name: fire_join
insert into joins (run_id, step, wave, clock, names) values (:run_id, :step, 1, :clock, :names)
on conflict (run_id, step) do update
    set wave = joins.wave + 1, clock = excluded.clock, names = excluded.names

-- Parked visits give their slots back, and ask again when their run continues: they are due then.
-- name: park_visits
update visits set status = 'parked', due_at = case
    when {is_queued} or {has_slot} then :now else due_at end
where run_id = :run_id and {active_in_run} and status <> 'running' and {of_a_step} and id <> :finally_visit

-- name: is_any_running
select 1 from visits where run_id = :run_id and {active_in_run} and {is_running} and {of_a_step}

-- name: remember_own_pause
insert into own_pauses (run_id) values (:run_id) on conflict do nothing

-- name: forget_own_pause
delete from own_pauses where run_id = :run_id

-- The finally step has begun, or the visit that ends the run exists.
-- name: is_ending
select 1 from visits where run_id = :run_id and (step = '@end' or id = :finally_visit)

-- name: find_parked
select {visit_columns} from visits where run_id = :run_id and status = 'parked'

-- name: unpause_visit
update visits set status = :status, due_at = :due_at where run_id = :run_id and id = :visit_id

-- name: delete_deadline
delete from visits where run_id = :run_id and step = '@deadline'

-- The branches of a run in sequential mode after a turn.
-- name: write_turn
update runs set stack = :stack, live = :live where id = :run_id

-- name: find_last_begun
select {visit_columns}, saved from visits where run_id = :run_id and {of_a_step}
order by clock desc, id desc limit 1

-- name: read_visit
select {visit_columns}, saved from visits where run_id = :run_id and id = :visit_id

-- A failed or parked visit continues.
-- name: reopen_visit
update visits set clock = :clock, names = :names, attempt = :attempt, {set_claim}, finished_at = null,
    "case" = null, error = null, failure = null
where run_id = :run_id and id = :visit_id

-- name: claim_next_due
{claim_next} returning {visit_columns}, saved
