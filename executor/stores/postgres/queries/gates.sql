-- Slots in the transaction that commits a step.

-- `gates.give_back` of the slot of a visit that has ended. A gate that is not used any more is removed.
-- name: give_back
with gate as (
    select * from gates where id = :gate_id and tenant = :gate_tenant for update
), slot as (
    delete from slots where {slot} and exists (
        select 1 from visits
        where run_id = :run_id and id = :visit_id and fence = :fence and finished_at is not null
    ) returning units
), freed as (
    select gate.*, gate.held - slot.units as left_units, gate.kind is null and gate.rate is null
        and gate.held = slot.units and gate.waiting = 0 as is_unused
    from gate, slot
), removed as (
    delete from gates using freed
    where gates.id = freed.id and gates.tenant = freed.tenant and is_unused
), changed as (
    update gates
    set held = left_units, ceiling = greatest(freed.units, left_units), edition = freed.edition + 1
    from freed where gates.id = freed.id and gates.tenant = freed.tenant and not is_unused
)
select waiting > 0 and left_units < units as may_grant from freed

-- `gates.admit` of a claimed visit at the gate of its step's own limit, if it need not wait.
-- name: take_own
with gate as (
    insert into gates (id, tenant, name, value, units, held, waiting, ceiling, edition, clock)
    select :gate_id, :gate_tenant, :name, :value, :size, :units, 0, :size, :edition, 0
    from visits where {held} and {has_taken}
    on conflict (tenant, id) do update
        set units = :size, held = gates.held + :units, ceiling = :size, edition = gates.edition + 1
    where gates.rate is null and gates.waiting = 0 and gates.held + :units <= :size
    returning id
)
insert into slots (gate_id, gate_tenant, run_id, visit_id, units, flow, rank, queued_at, held_at)
select :gate_id, :gate_tenant, :run_id, :visit_id, :units, :flow, :rank, :queued_at, :held_at from gate
returning units

-- `gates.admit` of a claimed visit at the gate of an operator's limit, if it need not wait.
-- name: take_named
with gate as (
    update gates set held = held + least(:units, units), edition = edition + 1
    where id = :gate_id and tenant = :gate_tenant and rate is null and waiting = 0
        and units > 0 and held + least(:units, units) <= units
        and exists (select 1 from visits where {held} and {has_taken})
    returning least(:units, units) as taken
)
insert into slots (gate_id, gate_tenant, run_id, visit_id, units, flow, rank, queued_at, held_at)
select :gate_id, :gate_tenant, :run_id, :visit_id, taken, :flow, :rank, :queued_at, :held_at from gate
returning units
