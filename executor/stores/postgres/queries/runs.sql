-- Outputs of visits whose lengths are known before they are read. `octet_length` reads no text.

-- All visits, or those in `:ids`. The outputs are null past `:most` characters.
-- name: counted_visits
select {visit_columns}, characters, total <= :most as is_complete,
    case when total <= :most then saved end as saved,
    case when total <= :most then result end as result,
    case when total <= :most then failures end as failures
from (
    select *, sum(characters) over (order by clock, id) as total from (
        select *, coalesce(octet_length(saved), 0) + coalesce(octet_length(result), 0)
            + coalesce(octet_length(failures), 0) as characters
        from visits where run_id = :run_id
        and :is_all and step not in ('@end', '@deadline') -- optional
        and id {in_ids} -- optional
    ) measured
) summed order by clock, id

-- name: outputs
select saved, result, failures from visits where run_id = :run_id and id = :visit_id

-- The bodies are null past `:most` characters.
-- name: counted_batch_results
select position, characters, total <= :most as is_complete,
    case when total <= :most then body end as body
from (
    select position, body, octet_length(body) as characters,
        sum(octet_length(body)) over (order by position) as total
    from parts where run_id = :run_id and visit_id = :visit_id and loop = :loop
) summed order by position

-- name: batch_result
select body from parts
where run_id = :run_id and visit_id = :visit_id and loop = :loop and position = :position

-- One scan. A join may be planned as a loop within a loop while the server knows small runs only. Such a plan
-- is kept with the prepared statement, and takes seconds for a run of 4,000 steps.
-- name: latest_visits
select id, step, status, number, attempt, due_at, started_at, finished_at, "case", error, progress, started
from (
    select *, max(position) over same_step as last, count(*) filter (
        where started_at is not null or attempt > 1 or progress is not null
    ) over same_step as started
    from visits where run_id = :run_id window same_step as (partition by step)
) as counted where position = last

-- name: latest_visits_of_runs
select run_id, id, step, status, number, attempt, due_at, started_at, finished_at, "case", error, started,
    case when octet_length(progress) <= :max_journal then progress end as progress,
    octet_length(progress) > :max_journal as is_long, octet_length(progress) as journal
from (
    select *, max(position) over same_step as last, count(*) filter (
        where started_at is not null or attempt > 1 or progress is not null
    ) over same_step as started
    from visits where run_id {in_ids} window same_step as (partition by run_id, step)
) as counted where position = last

-- The same of runs that have visited a step often. Each step with its latest visit is one look-up in an
-- index, so no plan reads all visits. Visits of a step on a cycle are numbered. So the number of the latest
-- one says how many there are, and only those that have not started are counted. Otherwise, as in a run that
-- continues another one, several visits of a step are counted in the index.
-- name: latest_visits_of_long_runs
with recursive latest as (
    select found.* from unnest(:ids::text[]) as wanted (id) cross join lateral (
        select {latest_columns} from visits where run_id = wanted.id order by step desc, position desc limit 1
    ) as found
    union all
    select found.* from latest cross join lateral (
        select {latest_columns} from visits where run_id = latest.run_id and step < latest.step
        order by step desc, position desc limit 1
    ) as found
), unclaimed as materialized (
    select run_id, step, count(*) as number from visits
    where run_id {in_ids} and finished_at is null and started_at is null and attempt = 1 and progress is null
    group by run_id, step
)
select run_id, id, step, status, number, attempt, due_at, started_at, finished_at, "case", error,
    case when octet_length(progress) <= :max_journal then progress end as progress,
    octet_length(progress) > :max_journal as is_long, octet_length(progress) as journal,
    case when number > 1 and exists (
        select 1 from runs where runs.id = latest.run_id and resumed_from is null
    ) then number - coalesce((
        select unclaimed.number from unclaimed
        where unclaimed.run_id = latest.run_id and unclaimed.step = latest.step
    ), 0) when (
        select true from visits where visits.run_id = latest.run_id and visits.step = latest.step
        and visits.position < latest.position order by visits.position desc limit 1
    ) is null then case when started_at is not null or attempt > 1 or progress is not null then 1 else 0 end
    else (
        select count(started_at) from visits where visits.run_id = latest.run_id and visits.step = latest.step
    ) + (
        select count(*) from visits where visits.run_id = latest.run_id and visits.step = latest.step
        and visits.started_at is null and (visits.attempt > 1 or visits.progress is not null)
    ) end as started
from latest

-- The newest runs of several playbooks, `:limit` of each.
-- name: find_newest
select {summary_columns} from unnest(:ids::text[]) as wanted (name) cross join lateral (
    select * from runs where runs.tenant = :tenant and runs.playbook = wanted.name
    order by runs.created_at desc, runs.id desc limit :limit
) as runs
order by runs.created_at desc, runs.id desc
