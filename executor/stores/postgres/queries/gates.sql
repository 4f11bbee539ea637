-- Slots in the transaction that commits a step.

-- The slot of a visit that has ended is given back.
-- name: give_back
with giving as (
    select 1 from visits
    where run_id = :run_id and id = :visit_id and fence = :fence and finished_at is not null
), {given_back}
select waiting > 0 and left_units < units as may_grant from freed

-- A claimed visit takes a slot.
-- name: take_units
with taking as (
    select 1 from visits where {held} and {has_taken}
), {taken}
select units from taken

-- The slot that an owner holds at a gate, or gets there at once, if the claim of its visit is held. The
-- transaction must have locked the run.
-- name: acquire_own
with claimed as (
    select 1 from visits where {held}
), {owned_slot}, taking as (
    select 1 from claimed where not exists (select 1 from owned)
), {taken_own}, {added_slot}
{acquired}

-- The same at the gate of an operator's limit.
-- name: acquire_named
with claimed as (
    select 1 from visits where {held}
), {owned_slot}, taking as (
    select 1 from claimed where not exists (select 1 from owned)
), {taken_named}, {added_slot}
{acquired}
