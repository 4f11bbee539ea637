-- Expressions of SQLite. `:ids` is a JSON array.

-- name: in_ids
in (select value from json_each(:ids))

-- Order of texts by their bytes.
-- name: binary
collate binary

-- The run has a tag, given as JSON.
-- name: has_tag
exists (select 1 from json_each(tags) where json_each.value = json_extract(:tag, '$'))
