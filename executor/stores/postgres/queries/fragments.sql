-- Expressions of Postgres. `:ids` is an array.

-- name: in_ids
= any(:ids)

-- Order of texts by their bytes.
-- name: binary
collate "C"

-- The stored form of a tag that is given as JSON: text with half a surrogate pair is stored as JSON too.
-- name: tag
:tag
