-- Visits of a run, read one by one.

-- The latest visit of a step that has started.
-- name: find_latest
select {visit_columns}, {started_of_step} as started, {entered_at} as entered_at from visits
where run_id = :run_id and step = :step and {has_started}
order by position desc limit 1

-- The visit of a step with a number, of which `:before` are smaller.
-- name: find
select {visit_columns}, {started_of_step} as started, {entered_at} as entered_at,
    coalesce(finished_at < (select created_at from runs where id = :run_id), false) as is_copy
from visits
where run_id = :run_id and step = :step and number = :number and {has_started} and {is_numbered_from}
order by position limit 1

-- The newest of several visits with the same number: an earlier run has finished the others.
-- name: find_newest
select {visit_columns}, {started_of_step} as started, {entered_at} as entered_at from visits
where run_id = :run_id and step = :step and number = :number and {has_started}
order by position desc limit 1

-- What says where the events of a visit are.
-- name: find_place
select position, status, finished_at from visits
where run_id = :run_id and step = :step and number = :number and {is_numbered_from}
order by position limit 1

-- The row of the history with the last event of a visit, of which `:end` is the begin.
-- name: find_last_row
select seq from history where run_id = :run_id and seq >= :first and {has_end} order by seq limit 1

-- The rows that may have events of a visit. `:needle` is its step and its number in the text of an event.
-- name: events
select seq, events from history
where run_id = :run_id and seq >= :first and seq <= :last and {has_needle} order by seq
