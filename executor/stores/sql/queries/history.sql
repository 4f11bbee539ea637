-- The history of runs: a row holds the events of one transaction.

-- name: append
insert into history values (:run_id, :seq, :events)

-- name: find
select seq, events from history where run_id = :run_id and seq >= :seq order by seq limit :limit

-- The rows that may have events of a visit. `:needle` is its step and its number in the text of an event.
-- name: find_of_visit
select seq, events from history where run_id = :run_id and {has_needle} order by seq
