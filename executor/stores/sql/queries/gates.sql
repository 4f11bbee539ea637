-- Gates of limits, and the slots that runs and visits have at them.

-- name: get
select * from gates where id = :id and tenant = :tenant and {is_used}

-- name: lock
select * from gates where id = :id and tenant = :tenant {for_update}

-- The gate of an operator's limit, unless it is hidden.
-- name: lock_shown
select * from gates where id = :id and tenant = :tenant and {is_not_hidden} {for_update}

-- name: add_or_lock
insert into gates
    (id, tenant, name, value, kind, units, held, waiting, ceiling, edition, rate, idle_at, clock)
values
    (:id, :tenant, :name, :value, :kind, :units, :held, :waiting, :ceiling, :edition, :rate, :idle_at, :clock)
on conflict (tenant, id) do update set edition = gates.edition returning *

-- name: write
update gates set kind = :kind, units = :units, held = :held, waiting = :waiting, ceiling = :ceiling,
    edition = :edition, rate = :rate, idle_at = :idle_at, clock = :clock
where id = :id and tenant = :tenant

-- name: remove
delete from gates where id = :id and tenant = :tenant

-- `gates.give_back` of the last units that are held at the gate of a playbook's or a step's own limit, which
-- is not used any more.
-- name: give_last
delete from gates where id = :id and tenant = :tenant and kind is null and rate is null
    and held = :units and waiting = 0

-- `gates.give_back` of units that are held at a gate which stays.
-- name: give_units
update gates set held = held - :units, edition = edition + 1,
    ceiling = case when held - :units > units then held - :units else units end
where id = :id and tenant = :tenant
returning waiting > 0 and held < units as may_grant,
    kind is null and rate is null and held = 0 and waiting = 0 as is_unused

-- The same at the gate of a playbook's or a step's own rate, where no slot waits.
-- name: give_units_of_rate
update gates set held = held - :units, edition = edition + 1,
    ceiling = case when held - :units > units then held - :units else units end
where id = :id and tenant = :tenant

-- `gates.admit` at the gate of a playbook's or a step's own limit, if the owner need not wait.
-- name: hold_own
insert into gates (id, tenant, name, value, units, held, waiting, ceiling, edition, clock)
values (:id, :tenant, :name, :value, :size, :units, 0, :size, 1, 0)
on conflict (tenant, id) do update
    set units = :size, held = gates.held + :units, ceiling = :size, edition = gates.edition + 1
where gates.rate is null and gates.waiting = 0 and gates.held + :units <= :size

-- `gates.admit` at the gate of an operator's limit, if the owner need not wait and the limit is not hidden.
-- name: hold_named
update gates set edition = edition + 1, held = held + case when :units < units then :units else units end
where id = :id and tenant = :tenant and {is_not_hidden} and rate is null and waiting = 0
    and units > 0 and held + case when :units < units then :units else units end <= units
returning units

-- Rates of playbooks and steps whose units have all left the window.
-- name: find_idle
select 1 from gates where idle_at <= :now and held = 0 limit 1

-- name: delete_idle
delete from gates where (tenant, id) in (
    select tenant, id from gates where idle_at <= :now and held = 0 limit :limit
)

-- name: find
select * from gates where tenant = :tenant and id > :after and id < :until and {is_used}
order by id limit :limit

-- Gates with enough free units for the first slot of their queue.
-- name: find_stalled
select id, tenant from gates where waiting > 0 and held < units and exists (
    select 1 from (
        select slots.units from slots
        where gate_id = gates.id and gate_tenant = gates.tenant and held_at is null and slots.flow = (
            select flows.flow from flows where flows.gate_id = gates.id and flows.gate_tenant = gates.tenant
            order by tag, flows.flow limit 1
        )
        order by {queue_order} limit 1
    ) as head
    where case when head.units < gates.units then head.units else gates.units end <= gates.units - gates.held
)
order by id, tenant limit :limit

-- The first slot of the flow that is served next, at a gate that is not full. `exists` is evaluated once: as
-- a condition of the join, a plan may evaluate it for each slot of a long queue.
-- name: find_head
select slots.*, name, value from gates join slots on gate_id = gates.id and gate_tenant = tenant
where id = :id and tenant = :tenant and held_at is null
and exists (select 1 from gates where id = :id and tenant = :tenant and held < units)
and flow = (
    select flow from flows where gate_id = :id and gate_tenant = :tenant order by tag, flow limit 1
)
order by {queue_order} limit 1

-- name: find_flow
select * from flows where gate_id = :id and gate_tenant = :tenant and flow = :flow

-- name: find_flows
select * from flows where gate_id = :id and gate_tenant = :tenant

-- name: put_flow
insert into flows (gate_id, gate_tenant, flow, tag, waiting) values (:id, :tenant, :flow, :tag, :waiting)
on conflict (gate_tenant, gate_id, flow) do update set tag = excluded.tag, waiting = excluded.waiting

-- name: remove_flow
delete from flows where gate_id = :id and gate_tenant = :tenant and flow = :flow

-- Number of the slots that are before a place in a flow.
-- name: count_in_flow
select count(*) as place from slots
where gate_id = :id and gate_tenant = :tenant and flow = :flow and held_at is null
and ({queue_order}) < (:rank, :queued_at, :run_id, :visit_id)

-- name: find_queue
select slots.*, name, value from slots join gates on gate_id = gates.id and gate_tenant = tenant
where gate_id = :id and gate_tenant = :tenant and held_at is null
and (flow, {queue_order}) > (:flow, :rank, :since, :after_run, :after_visit) -- optional
order by flow, {queue_order} limit :limit

-- name: find_held
select slots.*, name, value from slots join gates on gate_id = gates.id and gate_tenant = tenant
where gate_id = :id and gate_tenant = :tenant and held_at is not null
and (held_at, run_id {binary}, visit_id {binary}) > (:since, :after_run, :after_visit) -- optional
order by held_at, run_id {binary}, visit_id {binary} limit :limit

-- The slots of a run and its visits, or of one of them. The run has an empty id.
-- name: find_owned
select slots.*, name, value from slots join gates on gate_id = gates.id and gate_tenant = tenant
where run_id = :run_id
and visit_id = :visit_id -- optional

-- The slots of several runs that are not held at a time, in the order of their flows. `added` is how many
-- slots are between the one before in the same flow of this list and this one. So no part of a queue is
-- counted twice.
-- name: find_queued
with wanted as (
    select slots.*, name, value,
        lag(rank) over same_flow as last_rank, lag(queued_at) over same_flow as last_at,
        lag(run_id) over same_flow as last_run, lag(visit_id) over same_flow as last_visit
    from slots join gates on gate_id = gates.id and gate_tenant = tenant
    where run_id {in_ids} and (held_at is null or held_at > :now)
    window same_flow as (partition by gate_id, gate_tenant, flow, held_at is null order by {queue_order})
)
select wanted.*, case when held_at is null then (
    select count(*) from slots
    where slots.gate_id = wanted.gate_id and slots.gate_tenant = wanted.gate_tenant
    and slots.flow = wanted.flow and slots.held_at is null and ({queue_order}) < (
        wanted.rank, wanted.queued_at, wanted.run_id {binary}, wanted.visit_id {binary}
    ) and ({queue_order}) >= (
        coalesce(last_rank, -1e300), coalesce(last_at, -1e300), coalesce(last_run, '') {binary},
        coalesce(last_visit, '') {binary}
    )
) end as added
from wanted order by gate_id, gate_tenant, flow, {queue_order}

-- name: find_flows_of_runs
select * from flows where (gate_id, gate_tenant) in (
    select gate_id, gate_tenant from slots where run_id {in_ids} and held_at is null
)

-- name: add_slot
insert into slots (gate_id, gate_tenant, run_id, visit_id, units, flow, rank, queued_at, held_at)
values (:gate_id, :gate_tenant, :run_id, :visit_id, :units, :flow, :rank, :queued_at, :held_at)

-- What `gates.give_back` and `gates.admit` do at one gate for a slot that the next visit of a run takes over.
-- name: pass_on
update slots set {set_next_owner} where {slot} and {may_pass_on}

-- Let a slot that is held have another owner at another gate.
-- name: move
update slots set gate_id = :gate_id, gate_tenant = :gate_tenant, units = :units, {set_next_owner}
where gate_id = :held_id and gate_tenant = :held_tenant and run_id = :run_id and visit_id = :visit_id
    and {is_held} and slots.units = :held_units

-- name: hold
update slots set units = :units, held_at = :held_at where {slot}

-- name: take
delete from slots where {slot} returning *

-- name: take_of_visit
delete from slots where run_id = :run_id and visit_id = :visit_id returning *

-- name: take_of_run
delete from slots where run_id = :run_id returning *

-- name: take_of_parked
delete from slots where run_id = :run_id and visit_id in (
    select id from visits where visits.run_id = :run_id and status = 'parked'
) returning *

-- Slots of the visits of a run that are not executed, and those for which the run waits.
-- name: take_switched
delete from slots where run_id = :run_id and case when visit_id = '' then held_at is null else not exists (
    select 1 from visits where visits.run_id = slots.run_id and id = slots.visit_id and {is_running}
) end returning *

-- name: wake_queued
update visits set due_at = :now
where run_id = :run_id and status = 'waiting' and {of_a_step} and ({is_queued} or {has_slot})

-- Whether a visit waits for a slot, or for one of its run, and its run goes on or has its finally step.
-- name: is_queued
select 1 from slots where run_id = :run_id and visit_id in (:visit_id, :run_owner) and held_at is null
and exists (select 1 from runs where id = :run_id and (stop is null or :is_finally))

-- name: is_held
select 1 from visits where {held}

-- name: may_hold
select 1 from runs where id = :run_id and finished_at is null and not {is_paused}

-- name: read_visit
select {visit_columns} from visits where run_id = :run_id and id = :visit_id

-- name: wake_visits
update visits set due_at = :now where run_id = :run_id and status = 'waiting' and {of_a_step}
