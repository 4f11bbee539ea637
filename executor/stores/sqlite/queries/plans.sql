-- Plans in SQLite.

-- Parts without a plan: of a process that ended while it saved a large plan, or that saves one now.
-- name: find_abandoned
with recursive found (hash) as (
    select min(hash) from plan_parts
    union all
    select (select min(hash) from plan_parts where plan_parts.hash > found.hash) from found
    where hash is not null
)
select hash from found
where hash is not null and not exists (select 1 from plans where plans.hash = found.hash) limit :limit
