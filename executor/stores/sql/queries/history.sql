-- The history of runs: a row holds the events of one transaction.

-- name: append
insert into history values (:run_id, :seq, :events)

-- name: find
select seq, events from history where run_id = :run_id and seq >= :seq order by seq limit :limit
