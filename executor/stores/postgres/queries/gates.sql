-- Slots in the transaction that commits a step.

-- The slot of a visit that has ended is given back.
-- name: give_own
with entered as (
    {ended_visit}
), {deleted_slot}, giving as (
    select units from deleted
), {given_own}
select may_grant from given

-- The same at a gate that stays.
-- name: give_kept
with entered as (
    {ended_visit}
), {deleted_slot}, giving as (
    select units from deleted
), {given_kept}
select may_grant from given

-- A claimed visit takes a slot.
-- name: take_own
with taking as (
    select 1 from visits where {held} and {has_taken}
), {taken_own}, {added_slot}
select units from added

-- name: take_named
with taking as (
    select 1 from visits where {held} and {has_taken}
), {taken_named}, {added_slot}
select units from added

-- The same at a rate.
-- name: take_own_rate
with taking as (
    select 1 from visits where {held} and {has_taken}
), {taken_own_rate}, {added_slot}
select units from added

-- name: take_named_rate
with taking as (
    select 1 from visits where {held} and {has_taken}
), {taken_named_rate}, {added_slot}
select units from added

-- The slot that an owner holds at a gate, or gets there at once, if the claim of its visit is held. The
-- transaction must have locked the run.
-- name: acquire_own
with {acquiring}, {taken_own}, {added_slot}
{acquired}

-- The same at the gate of an operator's limit.
-- name: acquire_named
with {acquiring}, {taken_named}, {added_slot}
{acquired}

-- The same at a rate. A slot may be reserved for later.
-- name: acquire_own_rate
with {acquiring}, {taken_own_rate}, {added_slot}
{acquired}

-- name: acquire_named_rate
with {acquiring}, {taken_named_rate}, {added_slot}
{acquired}
