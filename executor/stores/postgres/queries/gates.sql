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
