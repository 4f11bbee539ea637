-- Expressions of Postgres. `:ids` is an array.

-- name: in_ids
= any(:ids)

-- Order of texts by their bytes.
-- name: binary
collate "C"

-- The run has a tag, given as JSON. A cast to `jsonb` would fail for a tag with half a surrogate pair, and
-- then for each page of runs.
-- name: has_tag
exists (select 1 from json_array_elements(tags::json) as tag where tag::text = :tag)
