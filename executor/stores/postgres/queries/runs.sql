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
    octet_length(progress) > :max_journal as is_long
from (
    select *, max(position) over same_step as last, count(*) filter (
        where started_at is not null or attempt > 1 or progress is not null
    ) over same_step as started
    from visits where run_id {in_ids} window same_step as (partition by run_id, step)
) as counted where position = last
