-- Visits in SQLite.

-- The row of a visit that has failed items. Their text is read as a blob, of which a part can be read alone.
-- name: find_failures
select rowid as place from visits where run_id = :run_id and id = :visit_id and failures is not null
