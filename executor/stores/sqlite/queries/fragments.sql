-- Expressions of SQLite. `:ids` and `:lanes` are JSON arrays.

-- name: in_ids
in (select value from json_each(:ids))

-- name: in_lanes
in (select value from json_each(:lanes))

-- The rows of `:parts`, a JSON array of arrays of kind, position, name and body.
-- name: part_rows
json_each(:parts)

-- name: part_columns
json_extract(value, '$[0]'), json_extract(value, '$[1]'),
json_extract(value, '$[2]'), json_extract(value, '$[3]')

-- The rows of `:totals`, a JSON array of arrays of the columns of `fact_totals`.
-- name: total_rows
json_each(:totals)

-- name: total_columns
json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
json_extract(value, '$[3]'), json_extract(value, '$[4]'), json_extract(value, '$[5]'),
json_extract(value, '$[6]')

-- The rows of `:triggers`, a JSON array of pairs of a playbook and the name of its trigger.
-- name: trigger_rows
json_each(:triggers)

-- name: trigger_columns
json_extract(value, '$[0]') as playbook, json_extract(value, '$[1]') as name

-- Lock of the rows that a transaction reads. SQLite has one transaction at a time.
-- name: for_update

-- Order of texts by their bytes.
-- name: binary
collate binary

-- The value of a tag that is given as JSON.
-- name: tag
json_extract(:tag, '$')

-- The visit is not finished, in a query for visits of one run.
-- name: active_in_run
{active}

-- The visit is claimed, in a query for one visit.
-- name: is_running
status = 'running'

-- The visit waits for nothing, in a query for one visit.
-- name: is_ready
status = 'ready'

-- name: has_needle
instr(events, :needle) > 0

-- The rows of `:tags`, a JSON array of tags that are given as JSON.
-- name: given_tags
json_each(:tags) given

-- name: given_tag
json_extract(given.value, '$')

-- The id of a run begins with `:text`, or its playbook has it. Only letters of ASCII have two cases.
-- name: has_text
(substr(lower(runs.id), 1, length(:text)) = :text or instr(lower(runs.playbook), :text) > 0)

-- Number of steps from the epoch to the creation of a run. 0 is one interval for all.
-- name: interval
case when :step > 0 then cast(runs.created_at / :step as integer) else 0 end

-- name: has_end
instr(events, :end) > 0

-- The events of a row of the history, each with its place from 0.
-- name: event_rows
json_each(history.events) as event

-- name: event_type
substr(event.value, 3, instr(substr(event.value, 3, 40), '"') - 1)

-- name: event_place
event.key

-- name: event_text
event.value

-- The rows of `:visits`, a JSON array of pairs of a step and the number of its visit.
-- name: visit_rows
(
    select json_extract(value, '$[0]') as name, json_extract(value, '$[1]') as number
    from json_each(:visits)
) as wanted

-- name: event_time
json_extract(event.value, '$[1]')

-- How many visits of the step `:step` have started. An index has `started_at`, so that rows are read only of
-- those that have not been claimed in this attempt.
-- name: started_of_step
(select count(*) from visits as other
    where other.run_id = :run_id and other.step = :step
    and (other.started_at is not null or other.attempt > 1 or other.finished_at is not null
        or other.progress is not null))

-- Runs with their data, which has a table of its own. SQLite writes the whole row of a run at each change.
-- name: runs_with_data
runs left join run_data on run_data.run_id = runs.id

-- `runs.write_data` writes the data of a run.
-- name: data_columns

-- name: data_values

-- name: set_data
