-- Slots in the transaction that commits a step.

-- The slot of a visit that has ended is given back.
-- name: give
with entered as (
    {ended_visit}
), {deleted_slot}, {giving_first}, {given}
select may_grant from given

-- A claimed visit takes a slot.
-- name: take_own
with taking as (
    select 1 from visits where {held} and {has_taken}
), {taken_own}, {returned_slot}
select units from added

-- name: take_named
with taking as (
    select 1 from visits where {held} and {has_taken}
), {taken_named}, {returned_slot}
select units from added

-- The same at a rate.
-- name: take_own_rate
with taking as (
    select 1 from visits where {held} and {has_taken}
), {taken_own_rate}, {returned_slot}
select units from added

-- name: take_named_rate
with taking as (
    select 1 from visits where {held} and {has_taken}
), {taken_named_rate}, {returned_slot}
select units from added

-- The slot that an owner holds at a gate, or gets there at once, if the claim of its visit is held. The
-- transaction must have locked the run.
-- name: acquire_own
with {acquiring}, {taken_own}, {returned_slot}
{acquired}

-- The same at the gate of an operator's limit.
-- name: acquire_named
with {acquiring}, {taken_named}, {returned_slot}
{acquired}

-- The same at a rate. A slot may be reserved for later.
-- name: acquire_own_rate
with {acquiring}, {taken_own_rate}, {returned_slot}
{acquired}

-- name: acquire_named_rate
with {acquiring}, {taken_named_rate}, {returned_slot}
{acquired}

-- `gates.give_back` of the last units that are held at the gate of a playbook's or a step's own limit. It is
-- kept for the next owner, or until a sweep: to delete and to insert it costs more.
-- name: give_last
update gates set held = 0, edition = edition + 1, ceiling = units
where id = :id and tenant = :tenant and kind is null and rate is null and held = :units and waiting = 0

-- Own limits and rates that are not used any more.
-- name: find_idle
select 1 from gates where {is_idle} limit 1

-- Gates that another transaction has locked are passed over: their order would be another one.
-- name: delete_idle
delete from gates where (tenant, id) in (
    select tenant, id from gates where {is_idle} limit :limit for update skip locked
)
