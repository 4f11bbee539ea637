-- Expressions of Postgres. `:ids` is an array.

-- name: in_ids
= any(:ids)

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

-- The events of a row of the history, each with its place from 0. Operators of JSON refuse some texts that
-- events may have, so the members of an event are found in its text.
-- name: event_rows
json_array_elements(history.events::json) with ordinality as event (value, place)

-- name: event_type
split_part(event.value::text, '"', 2)

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
