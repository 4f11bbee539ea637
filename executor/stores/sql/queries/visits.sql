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

-- Visits that have started, with their outputs, of those that were created before a place. Together the
-- outputs have at most `:most` characters. Larger ones are left out.
-- name: outputs
select {visit_columns}, saved, result from (
    select *, sum(characters) over (order by position) as total from (
        select visits.*, coalesce(length(saved), 0) + coalesce(length(result), 0) as characters
        from (select distinct name from {visit_rows}) as steps
        cross join visits
        where run_id = :run_id and step = name and position < :before and {has_started}
        and (step, number) in (select wanted.name, wanted.number from {visit_rows})
    ) as measured where characters <= :most
) as summed where total <= :most order by position

-- The first events of some types. Past `:most` characters together they are null.
-- name: events_of_types
select seq, place, case when sum(length(event)) over (order by seq, place) <= :most then event end as event
from (
    select seq, {event_place} as place, {event_text} as event from history cross join {event_rows}
    where run_id = :run_id and {event_type} {in_ids} order by seq, {event_place} limit :limit
) as chosen order by seq, place
