-- Visits in Postgres.

-- A part of the failed items of a visit. `:place` counts characters from 1.
-- name: failures_text
select substr(failures, :place, :length) as part from visits
where run_id = :run_id and id = :visit_id and failures is not null
