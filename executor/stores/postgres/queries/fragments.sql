-- Expressions of Postgres. `:ids` and `:lanes` are arrays.

-- name: in_ids
= any(:ids)

-- name: in_lanes
= any(:lanes)

-- The rows of `:parts`, a JSON array of arrays of kind, position, name and body.
-- name: part_rows
json_array_elements(:parts::json)

-- name: part_columns
value ->> 0, (value ->> 1)::integer, value ->> 2, value ->> 3

-- The rows of `:totals`, a JSON array of arrays of the columns of `fact_totals`.
-- name: total_rows
json_array_elements(:totals::json)

-- name: total_columns
value ->> 0, value ->> 1, value ->> 2, value ->> 3, (value ->> 4)::integer, (value ->> 5)::bigint,
(value ->> 6)::double precision

-- The rows of `:triggers`, a JSON array of pairs of a playbook and the name of its trigger.
-- name: trigger_rows
json_array_elements(:triggers::json)

-- name: trigger_columns
value ->> 0 as playbook, value ->> 1 as name

-- Lock of the rows that a transaction reads, until it ends.
-- name: for_update
for update

-- Order of texts by their bytes.
-- name: binary
collate "C"

-- The stored form of a tag that is given as JSON: text with half a surrogate pair is stored as JSON too.
-- name: tag
:tag

-- The visit is not finished, in a query for visits of one run. Such a query must not imply the condition of
-- the indexes of due times. While these have few live entries, the planner takes all of their entries for
-- few, although a held snapshot keeps the dead ones.
-- name: active_in_run
(finished_at is null and status not in ('parked', 'succeeded', 'failed'))

-- The visit is claimed, in a query for one visit.
-- name: is_running
coalesce(status, '') = 'running'

-- The visit waits for nothing, in a query for one visit.
-- name: is_ready
coalesce(status, '') = 'ready'

-- The claimed visit has got the slots that it requests before this one.
-- name: has_taken
(select count(*) from slots where run_id = :run_id and visit_id = :visit_id) = :taken_before

-- The gate of an own limit or rate is not used any more, and a sweep may delete it.
-- name: is_idle
held = 0 and waiting = 0 and kind is null and coalesce(idle_at <= :now, true)

-- The number of slots that a visit holds.
-- name: held_slots
(select count(held_at) from slots where run_id = :run_id and visit_id = :visit_id)

-- name: has_needle
strpos(events, :needle) > 0

-- The rows of `:tags`, an array of tags that are given as JSON.
-- name: given_tags
unnest(:tags::text[]) given (value)

-- name: given_tag
given.value

-- The id of a run begins with `:text`, or its playbook has it. Only letters of ASCII have two cases.
-- name: has_text
(starts_with(lower(runs.id collate "C"), :text) or strpos(lower(runs.playbook collate "C"), :text) > 0)

-- Number of steps from the epoch to the creation of a run. 0 is one interval for all.
-- name: interval
case when :step > 0 then floor(runs.created_at / :step)::bigint else 0 end

-- name: has_end
strpos(events, :end) > 0

-- The events of a row of the history, each with its place from 1. Operators of JSON refuse some texts that
-- events may have, so the members of an event are found in its text.
-- name: event_rows
json_array_elements(history.events::json) with ordinality as event (value, place)

-- name: event_type
split_part(event.value::text, '"', 2)

-- name: event_place
event.place - 1

-- name: event_text
event.value::text

-- The rows of `:visits`, a JSON array of pairs of a step and the number of its visit.
-- name: visit_rows
(
    select value ->> 0 as name, (value ->> 1)::integer as number
    from json_array_elements(:visits::json)
) as wanted

-- name: event_time
split_part(event.value::text, ',', 2)::double precision

-- How many visits of the step `:step` have started. They are counted in an index; rows are read only of those
-- that have not been claimed in this attempt.
-- name: started_of_step
(select count(claimed.started_at) from visits as claimed
    where claimed.run_id = :run_id and claimed.step = :step)
    + (select count(*) from visits as other
        where other.run_id = :run_id and other.step = :step and other.started_at is null
        and (other.attempt > 1 or other.finished_at is not null or other.progress is not null))

-- name: lock_unstopped
select 1 from runs where id = :run_id and stop is null for update

-- The commit of a step of a chain, if `locked` has a row.
-- name: committed_step
done as (
    update visits set {set_finished} where {held} and exists (select 1 from locked)
    and {held_slots} = :held_slots -- optional
    returning id
), run as (
    update runs set seq = seq + 1 where id = :run_id and exists (select 1 from done)
    returning seq, queue, tenant, playbook
), measured as (
    insert into facts select tenant, playbook, :kind, :status, :bucket, :seconds from run
), entered as (
    insert into visits ({new_visit_columns})
    select :run_id, :next_visit_id, :next_step, queue, tenant, :next_status, seq << 12, :next_clock,
        :next_names, :next_number, :next_claims, :next_fence, :next_worker, :next_due_at, :next_started_at,
        :next_segment_started_at from run
    returning id
), recorded as (
    insert into history select :run_id, seq, :events from run
)

-- name: entered_step
select {entered_columns} from entered

-- name: ended_visit
select 1 from visits
where run_id = :run_id and id = :visit_id and fence = :fence and finished_at is not null

-- The slot that a visit gives back, in a transaction that has locked its run.
-- name: moved_slot
select 1 from slots where gate_id = :held_id and gate_tenant = :held_tenant and run_id = :run_id
    and visit_id = :visit_id and {is_held} and units = :held_units

-- The slot of the committed visit is deleted.
-- name: deleted_slot
deleted as (
    delete from slots where gate_id = :held_id and gate_tenant = :held_tenant and run_id = :run_id
        and visit_id = :visit_id and exists (select 1 from entered) returning units
)

-- What is given back, if it need not wait for the other gate, and if it must.
-- name: giving_first
giving as (select units from deleted)

-- name: giving_last
giving as (select units from deleted where (select count(*) from taken_gate) >= 0)

-- Whether something is taken: alone or before something is given back, and behind that.
-- name: taking_first
taking as (select 1 from entered)

-- name: taking_last
taking as (select 1 from given)

-- `gates.give_back` of the units of `giving`. A gate that is not used any more is kept for the next owner, or
-- until a sweep.
-- name: given
given as (
    update gates set held = held - giving.units, edition = edition + 1,
        ceiling = greatest(gates.units, held - giving.units)
    from giving where id = :held_id and tenant = :held_tenant
    returning waiting > 0 and held < gates.units as may_grant
)

-- `gates.admit` at the gate of a playbook's or a step's own limit, if `taking` has a row and the owner need
-- not wait.
-- name: taken_own
taken_gate as (
    insert into gates (id, tenant, name, value, units, held, waiting, ceiling, edition, clock)
    select :gate_id, :gate_tenant, :name, :value, :size, :units, 0, :size, 1, 0 from taking
    on conflict (tenant, id) do update
        set units = :size, held = gates.held + :units, ceiling = :size, edition = gates.edition + 1
    where gates.rate is null and gates.waiting = 0 and gates.held + :units <= :size
    returning :units::int as taken_units
)

-- The same at the gate of an operator's limit.
-- name: taken_named
taken_gate as (
    update gates set held = held + least(:units, units), edition = edition + 1
    where id = :gate_id and tenant = :gate_tenant and {is_not_hidden} and rate is null
        and waiting = 0 and units > 0 and held + least(:units, units) <= units
        and exists (select 1 from taking)
    returning least(:units, units) as taken_units
)

-- `rate_gates.reserve` at the gate of a playbook's or a step's own rate, if `taking` has a row and the units
-- can be taken now.
-- name: taken_own_rate
taken_gate as (
    insert into gates (id, tenant, name, value, units, held, waiting, ceiling, edition, clock, rate, idle_at)
    select :gate_id, :gate_tenant, :name, :value, :size, :units, 0, :size, 1, 0,
        :log_begin::text || :log_end::text || :units::int || ']]]', :idle_at::float8 from taking
    on conflict (tenant, id) do update
        set units = :size, held = gates.held + :units, ceiling = greatest(:size, gates.held + :units),
            edition = gates.edition + 1, idle_at = :idle_at, rate = :log_begin::text || (
                select {new_log} from ({reservations}) as taken, (select :since::float8 as since) as part
                where time + :per > :held_at
            ) || ']]]'
    where gates.rate is not null and (gates.rate::json ->> 1)::float8 <= :held_at and (
        select {is_latest} and coalesce(sum(number), 0) + :units <= :size
        from ({reservations}) as taken where time + :per > :held_at
    )
    returning :units::int as taken_units
)

-- The same at the gate of an operator's rate, whose window is in its log.
-- name: taken_named_rate
taken_gate as (
    update gates set held = held + least(:units, units), edition = edition + 1,
        ceiling = greatest(units, held + least(:units, units)),
        rate = '[' || (rate::json ->> 0) || :log_begin || (
            select {new_log} from ({reservations}) as taken, ({merged_since}) as part
            where time + (rate::json ->> 0)::float8 > :held_at
        ) || ']]]'
    where id = :gate_id and tenant = :gate_tenant and {is_not_hidden} and rate is not null
        and :units <= units and exists (select 1 from taking)
        and (rate::json ->> 1)::float8 <= :held_at and (
            select {is_latest} and coalesce(sum(number), 0) + :units <= gates.units
            from ({reservations}) as taken where time + (rate::json ->> 0)::float8 > :held_at
        )
    returning :units::int as taken_units
)

-- The log of a rate, oldest first.
-- name: reservations
select value, (value ->> 0)::float8 as time, (value ->> 1)::int as number
from json_array_elements(gates.rate::json -> 2)

-- Whether no reservation of one window is later than the new one.
-- name: is_latest
(max(time) <= :held_at) is not false

-- `rates.merged_since` of the gate of an operator's rate.
-- name: merged_since
select case when units > :exact then least(:held_at, floor(:held_at / width) * width) else :held_at end
    as since from (select (rate::json ->> 0)::float8 / :exact as width) as part

-- The reservations of one window and the new one, which is merged with those from `since` on. The function
-- that reads them returns them in their order.
-- name: new_log
coalesce(string_agg(value::text || ',', '') filter (where time < since), '') || :log_end
|| :units + coalesce(sum(number) filter (where time >= since), 0)

-- The next visit gets a slot at the gate where it has taken units.
-- name: added_slot
added as ({new_slot})

-- name: new_slot
insert into slots (gate_id, gate_tenant, run_id, visit_id, units, flow, rank, queued_at, held_at)
select :gate_id, :gate_tenant, :run_id, :next_visit_id, taken_units, :flow, :rank, :held_at, :held_at
from taken_gate

-- The same, and it is returned.
-- name: returned_slot
added as ({new_slot} returning units, flow, rank, queued_at, held_at)

-- The claim is held, and its owner takes a slot if it has none.
-- name: acquiring
claimed as (
    select 1 from visits where {held}
), owned as (
    select units, flow, rank, queued_at, held_at from slots
    where gate_id = :gate_id and gate_tenant = :gate_tenant and run_id = :run_id
        and visit_id = :next_visit_id and exists (select 1 from claimed)
), taking as (
    select 1 from claimed where not exists (select 1 from owned)
)

-- A slot that waits, or is reserved for later, is left to the owner's request.
-- name: acquired
select * from owned where held_at <= :held_at union all select * from added

-- Columns of a visit that the status of its run shows.
-- name: latest_columns
run_id, id, step, status, position, number, attempt, due_at, started_at, finished_at, "case", error,
    progress

-- name: entered_columns
count(*) as entered, (select queue from run) as queue, (select tenant from run) as tenant

-- Runs with their data: input, environment and variables. Postgres keeps large values apart by itself.
-- name: runs_with_data
runs

-- name: data_columns
input, environment, variables,

-- name: data_values
:input, :environment, :variables,

-- name: set_data
, input = :input, environment = :environment, variables = :variables
