-- Expressions of SQLite. `:ids` is a JSON array.

-- name: in_ids
in (select value from json_each(:ids))

-- Order of texts by their bytes.
-- name: binary
collate binary

-- The value of a tag that is given as JSON.
-- name: tag
json_extract(:tag, '$')
